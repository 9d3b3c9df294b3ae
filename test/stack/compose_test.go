package stack

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// load reads compose files, later ones over earlier ones, as `docker compose` does, with the services of all profiles. A misspelt key is an error.
func load(t *testing.T, files ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions(files, cli.WithName("spillway"), cli.WithProfiles([]string{"*"}), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(project.Services) == 0 {
		t.Fatalf("%v has no services", files)
	}
	return project
}

func composeFile(t *testing.T) *types.Project { return load(t, "../../compose.yaml") }

// What compose.yaml is made of.
var (
	servers  = []string{"automation", "enqueue", "notifier", "scheduler"}
	oneShots = []string{"install", "keys", "tokens"}
	ours     = slices.Concat(servers, oneShots, []string{"cli"})
)

const mib = 1 << 20

// probe is what is kept free beside GOMEMLIMIT's ceiling for `spillway health`, which runs in the same container, and the kernel.
const probe = 32 * mib

// ceilings are those that `spillway dev` holds its children to, in bytes.
var ceilings = map[string]int64{"enqueue": 150 * mib, "scheduler": 300 * mib, "notifier": 300 * mib, "automation": 100 * mib}

// calls are the services that call another, as workers, and the volume with that one's socket.
var calls = map[string]string{"notifier": "socket-scheduler"}

// rule is what must hold for the services it is for.
type rule struct {
	name   string
	of     []string // nil: all
	reason string
	breach func(types.ServiceConfig) string // "" if it holds
}

var rules = []rule{
	{"pinned", nil, "what was tried is what runs", func(s types.ServiceConfig) string {
		if slices.Contains(ours, s.Name) {
			return unless(s.Image == "spillway:devel" && (s.Build != nil) == (s.Name == "keys") && s.PullPolicy == types.PullPolicyNever, "%s, pull policy %q", s.Image, s.PullPolicy)
		}
		_, tag, _ := strings.Cut(s.Image, ":")
		return unless(strings.Count(tag, ".") == 2 && strings.Trim(tag, "0123456789.") == "", "image %s", s.Image)
	}},
	{"memory", nil, "a leak ends one container, not the machine; swap would hide it", func(s types.ServiceConfig) string {
		return unless(s.MemLimit > 0 && s.MemSwapLimit == s.MemLimit, "memory %d, with swap %d", s.MemLimit, s.MemSwapLimit)
	}},
	{"processes", nil, "a fork bomb ends in its container", func(s types.ServiceConfig) string {
		return unless(s.PidsLimit > 0, "no limit")
	}},
	{"read-only", nil, "nothing is kept, or planted, outside of volumes", func(s types.ServiceConfig) string {
		return unless(s.ReadOnly, "root can be written")
	}},
	{"capabilities", nil, "none is needed", func(s types.ServiceConfig) string {
		return unless(slices.Equal(s.CapDrop, []string{"ALL"}) && len(s.CapAdd) == 0 && !s.Privileged, "drops %v, adds %v, privileged %v", s.CapDrop, s.CapAdd, s.Privileged)
	}},
	{"privileges", nil, "no file in an image gives more than its user has", func(s types.ServiceConfig) string {
		return unless(slices.Contains(s.SecurityOpt, "no-new-privileges:true"), "%v", s.SecurityOpt)
	}},
	{"namespaces", nil, "a container sees itself alone", func(s types.ServiceConfig) string {
		return unless(s.NetworkMode == "" && s.Pid == "" && s.Ipc == "" && s.UserNSMode == "" && len(s.Devices) == 0, "network %q, pid %q, ipc %q", s.NetworkMode, s.Pid, s.Ipc)
	}},
	{"ports", nil, "plaintext and tokens stay on the machine", func(s types.ServiceConfig) string {
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				return fmt.Sprintf("port %s is published on %q", p.Published, p.HostIP)
			}
		}
		return ""
	}},
	{"volumes", nil, "a folder of the machine would bring its owner and its secrets along", func(s types.ServiceConfig) string {
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeVolume || v.Source == "" {
				return fmt.Sprintf("%s %s on %s", v.Type, v.Source, v.Target)
			}
		}
		return ""
	}},
	{"log", nil, "every buffer has a bound, the log files too", func(s types.ServiceConfig) string {
		return unless(s.Logging != nil && s.Logging.Options["max-size"] != "" && s.Logging.Options["max-file"] != "", "%+v", s.Logging)
	}},
	{"user", ours, "not root, and a number, which is checked without a passwd file", func(s types.ServiceConfig) string {
		return unless(s.User == "65532:65532", "%q", s.User)
	}},
	{"restart", append([]string{"kafka"}, servers...), "what ends is started again", func(s types.ServiceConfig) string {
		return unless(s.Restart == types.RestartPolicyUnlessStopped, "%q", s.Restart)
	}},
	{"once", append([]string{"cli"}, oneShots...), "what did its work stays ended, and what failed says so", func(s types.ServiceConfig) string {
		return unless(s.Restart == types.RestartPolicyNo, "%q", s.Restart)
	}},
	{"health", append([]string{"kafka"}, servers...), "up --wait, and whoever depends on it, must know", func(s types.ServiceConfig) string {
		h := s.HealthCheck
		return unless(h != nil && len(h.Test) > 1 && h.Interval != nil && h.Timeout != nil && h.StartPeriod != nil && h.Retries != nil, "%+v", h)
	}},
	{"health by our own binary", servers, "there is no shell in the image; readiness has 3 s to answer", func(s types.ServiceConfig) string {
		h := s.HealthCheck
		return unless(h != nil && slices.Equal(h.Test, []string{"CMD", "/spillway", "health"}) && h.Timeout != nil && time.Duration(*h.Timeout) > 3*time.Second, "%+v", h)
	}},
	{"time to start", []string{"kafka"}, "a broker that was killed reads its log first: at least a minute", func(s types.ServiceConfig) string {
		h := s.HealthCheck
		if h == nil || h.StartPeriod == nil || h.Interval == nil || h.Retries == nil {
			return "no bounds"
		}
		start := time.Duration(*h.StartPeriod)
		all := start + time.Duration(*h.Retries)*time.Duration(*h.Interval)
		return unless(start >= 20*time.Second && all >= time.Minute, "start period %v, %v in all", start, all)
	}},
	{"order", servers, "topics first: a service refuses a log without them", func(s types.ServiceConfig) string {
		return unless(s.DependsOn["kafka"].Condition == types.ServiceConditionHealthy && s.DependsOn["install"].Condition == types.ServiceConditionCompletedSuccessfully, "%v", s.DependsOn)
	}},
	{"drain", servers, "a service drains for up to 15 s; killed before, its work is done again", func(s types.ServiceConfig) string {
		return unless(s.StopGracePeriod != nil && time.Duration(*s.StopGracePeriod) > 15*time.Second, "%v", s.StopGracePeriod)
	}},
	{"time to stop", []string{"kafka"}, "a broker that stops cleanly starts in seconds", func(s types.ServiceConfig) string {
		return unless(s.StopGracePeriod != nil && time.Duration(*s.StopGracePeriod) >= 30*time.Second, "%v", s.StopGracePeriod)
	}},
	{"collector", servers, "nine tenths of the ceiling, and room for the health check", func(s types.ServiceConfig) string {
		limit := value(s, "GOMEMLIMIT")
		want := fmt.Sprintf("%dMiB", ceilings[s.Name]*9/10/mib)
		return unless(limit == want && int64(s.MemLimit) >= ceilings[s.Name]+probe, "GOMEMLIMIT %s, want %s, in %d bytes", limit, want, s.MemLimit)
	}},
	{"TXT records", slices.Concat(servers, []string{"cli", "install", "tokens"}), "exporters wait 10 s a call where DNS has no way out", func(s types.ServiceConfig) string {
		return unless(value(s, "GRPC_ENABLE_TXT_SERVICE_CONFIG") == "false", "%q", value(s, "GRPC_ENABLE_TXT_SERVICE_CONFIG"))
	}},
	{"signing key", slices.Concat(servers, []string{"cli", "install", "kafka"}), "no service signs tokens", func(s types.ServiceConfig) string {
		return unless(!mounts(s, "signing-key", true), "has it mounted")
	}},
	{"keys cannot be changed", slices.Concat(servers, []string{"cli", "install", "tokens"}), "they only read them", func(s types.ServiceConfig) string {
		return unless(mounts(s, "service-keys", true) && !mounts(s, "service-keys", false), "%v", s.Volumes)
	}},
	{"sockets", servers, "none can stand in for another and be given tokens that are not for it", func(s types.ServiceConfig) string {
		for _, v := range s.Volumes {
			if strings.HasPrefix(v.Source, "socket-") && v.Source != "socket-"+s.Name && !(v.ReadOnly && calls[s.Name] == v.Source) {
				return "has " + v.Source + " mounted"
			}
		}
		return ""
	}},
	{"tokens", servers, "a service verifies tokens and needs none, but for one that is a worker", func(s types.ServiceConfig) string {
		for _, v := range s.Volumes {
			if strings.HasPrefix(v.Source, "token-") && !(v.ReadOnly && v.Source == "token-"+s.Name && calls[s.Name] != "") {
				return "has " + v.Source + " mounted"
			}
		}
		return ""
	}},
	{"published", ours, "browsers reach the notifier; nobody else is reached from outside of the containers", func(s types.ServiceConfig) string {
		return unless(len(s.Ports) == 0 || s.Name == "notifier" && len(s.Ports) == 1, "publishes %d ports", len(s.Ports))
	}},
	{"files", []string{"notifier"}, "a socket is a file: as many as sessions, and room for the rest", func(s types.ServiceConfig) string {
		files, sessions := s.Ulimits["nofile"], 0
		fmt.Sscan(value(s, "SPILLWAY_NOTIFIER_SESSIONS"), &sessions)
		return unless(files != nil && sessions > 0 && files.Single >= sessions+1024, "%+v, %d sessions", files, sessions)
	}},
}

func unless(holds bool, format string, args ...any) string {
	if holds {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// value is what a service has in its environment.
func value(s types.ServiceConfig, name string) string {
	if v := s.Environment[name]; v != nil {
		return *v
	}
	return ""
}

// mounts tells whether s has the volume, writable, or in any way.
func mounts(s types.ServiceConfig, volume string, any bool) bool {
	return slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool { return v.Source == volume && (any || !v.ReadOnly) })
}

func TestRules(t *testing.T) {
	project := composeFile(t)
	for _, name := range append([]string{"kafka"}, ours...) {
		if _, ok := project.Services[name]; !ok {
			t.Errorf("there is no service %s", name)
		}
	}
	if got, want := len(project.Services), len(ours)+1; got != want {
		t.Errorf("%d services, the rules know %d: %v", got, want, project.ServiceNames())
	}
	for _, breach := range breaches(project) {
		t.Error(breach)
	}
}

func breaches(project *types.Project) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		for _, r := range rules {
			if r.of != nil && !slices.Contains(r.of, name) {
				continue
			}
			if breach := r.breach(project.Services[name]); breach != "" {
				list = append(list, fmt.Sprintf("%s: %s: %s: %s", name, r.name, breach, r.reason))
			}
		}
	}
	return list
}

// TestRulesCanBeBroken: a file in which everything is left out, or wrong, breaks every rule.
func TestRulesCanBeBroken(t *testing.T) {
	found := strings.Join(breaches(load(t, "testdata/weak.yaml")), "\n")
	for _, r := range rules {
		if !strings.Contains(found, ": "+r.name+": ") {
			t.Errorf("nothing breaks the rule %q", r.name)
		}
	}
}

// TestBroker: the settings that reliability was measured with.
func TestBroker(t *testing.T) {
	kafka := composeFile(t).Services["kafka"]
	for name, want := range map[string]string{
		"KAFKA_BROKER_SESSION_TIMEOUT_MS":        "3000",   // a killed broker is back after it
		"KAFKA_BROKER_HEARTBEAT_INTERVAL_MS":     "500",    // six heartbeats in a session
		"KAFKA_AUTO_CREATE_TOPICS_ENABLE":        "false",  // a misspelt topic is an error
		"KAFKA_OFFSETS_RETENTION_MINUTES":        "129600", // 90 days without a scheduler
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",      // the default, 3, would wait for two more brokers for ever
		"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
		"KAFKA_LOG_DIRS":                         "/var/lib/kafka/data",
		"KAFKA_PROCESS_ROLES":                    "broker,controller",
	} {
		if got := value(kafka, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if !slices.ContainsFunc(kafka.Volumes, func(v types.ServiceVolumeConfig) bool {
		return v.Target == value(kafka, "KAFKA_LOG_DIRS") && !v.ReadOnly
	}) {
		t.Error("the logs are not in a volume: a new container would begin with nothing")
	}
	advertised, _, _ := strings.Cut(strings.TrimPrefix(value(kafka, "KAFKA_ADVERTISED_LISTENERS"), "PLAINTEXT://"), ",")
	for _, name := range append([]string{"install", "tokens", "cli"}, servers...) {
		if got := value(composeFile(t).Services[name], "SPILLWAY_KAFKA"); got != advertised {
			t.Errorf("%s looks for the broker at %q, which calls itself %q", name, got, advertised)
		}
	}
	for _, tmp := range kafka.Tmpfs {
		_, options, _ := strings.Cut(tmp, ":")
		if !strings.Contains(options, "size=") {
			t.Errorf("%s may take all of the container's memory", tmp)
		}
		if strings.HasPrefix(tmp, "/tmp:") && !slices.Contains(strings.Split(options, ","), "exec") {
			t.Errorf("compression libraries cannot be loaded from %s", tmp)
		}
	}
	// The image's own choices write to files without end.
	if log, extra := value(kafka, "KAFKA_LOG4J_OPTS"), value(kafka, "EXTRA_ARGS"); !strings.HasSuffix(log, "/tools-log4j2.yaml") || extra == "" || strings.Contains(extra, "-loggc") {
		t.Errorf("it logs by %q, %q", log, extra)
	}
}

// TestNetwork: no service needs a way out, and none has one. The notifier's port is on the machine through a network of its own, because an
// internal one has no ports; without masquerading what leaves it finds no way back.
func TestNetwork(t *testing.T) {
	project := composeFile(t)
	for name, n := range project.Networks {
		switch name {
		case "log":
			if !n.Internal {
				t.Error("the network of the log has a way out")
			}
		case "edge":
			if got := n.DriverOpts["com.docker.network.bridge.enable_ip_masquerade"]; got != "false" || n.Internal {
				t.Errorf("network edge: masquerading %q, internal %v", got, n.Internal)
			}
		default:
			t.Errorf("network %s", name)
		}
	}
	for _, s := range project.Services {
		want := []string{"log"}
		if s.Name == "notifier" {
			want = []string{"edge", "log"}
		}
		if got := slices.Sorted(maps.Keys(s.Networks)); !slices.Equal(got, want) {
			t.Errorf("%s is in %v, want %v", s.Name, got, want)
		}
	}
}

// TestWebsocketPort: what is published is the listener for websockets, on loopback, and the tool finds it inside.
func TestWebsocketPort(t *testing.T) {
	project := composeFile(t)
	s := project.Services["notifier"]
	if len(s.Ports) != 1 {
		t.Fatalf("%d ports", len(s.Ports))
	}
	port := s.Ports[0]
	_, listens, _ := strings.Cut(value(s, "SPILLWAY_NOTIFIER_LISTEN"), ":")
	if port.HostIP != "127.0.0.1" || port.Published != "7422" || fmt.Sprint(port.Target) != listens || port.Protocol != "tcp" {
		t.Errorf("publishes %+v, listens on %s", port, listens)
	}
	if got, want := value(project.Services["cli"], "SPILLWAY_NOTIFIER_WEBSOCKET"), "ws://notifier:"+listens+"/v1/ws"; got != want {
		t.Errorf("cli looks for it at %q, want %q", got, want)
	}
	for _, port := range []string{value(s, "SPILLWAY_LISTEN"), value(s, "SPILLWAY_ADMIN_LISTEN")} {
		if strings.HasSuffix(port, ":"+listens) {
			t.Errorf("%s is published", port)
		}
	}
}

// TestNotifierIsAWorker: it takes jobs of type notify with a token of its own, signed before it starts and as each worker's is.
func TestNotifierIsAWorker(t *testing.T) {
	project := composeFile(t)
	s, tokens := project.Services["notifier"], project.Services["tokens"]
	if got, want := value(s, "SPILLWAY_NOTIFIER_SCHEDULERS"), value(project.Services["scheduler"], "SPILLWAY_LISTEN"); got != want {
		t.Errorf("it looks for the scheduler at %q, want %q", got, want)
	}
	file := value(s, "SPILLWAY_NOTIFIER_WORKER_TOKEN_FILE")
	if !slices.Contains(tokens.Command, "--token=notifier:worker:"+file) {
		t.Errorf("%s is not signed: %v", file, tokens.Command)
	}
	if s.DependsOn["tokens"].Condition != types.ServiceConditionCompletedSuccessfully || len(tokens.Profiles) != 0 {
		t.Errorf("it starts before its token is there: %v, profiles %v", s.DependsOn, tokens.Profiles)
	}
}

// TestEveryVolumeIsUsed: a misspelt source would be an error of compose, a volume that nobody mounts is not.
func TestEveryVolumeIsUsed(t *testing.T) {
	project := composeFile(t)
	for name := range project.Volumes {
		used := false
		for _, s := range project.Services {
			used = used || mounts(s, name, true)
		}
		if !used {
			t.Errorf("volume %s is mounted nowhere", name)
		}
	}
}

// TestAddresses: the tool looks for each service where it listens and says that it is.
func TestAddresses(t *testing.T) {
	project := composeFile(t)
	cli := project.Services["cli"]
	for _, name := range servers {
		s := project.Services[name]
		listen := value(s, "SPILLWAY_LISTEN")
		if got := value(s, "SPILLWAY_ADVERTISE"); got != listen {
			t.Errorf("%s listens on %q and advertises %q", name, listen, got)
		}
		if got := value(cli, "SPILLWAY_"+strings.ToUpper(name)+"_ADDRESS"); got != listen {
			t.Errorf("cli looks for %s at %q, it listens on %q", name, got, listen)
		}
		path, isUnix := strings.CutPrefix(listen, "unix:")
		if !isUnix || !slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool {
			return v.Source == "socket-"+name && strings.HasPrefix(path, v.Target+"/")
		}) {
			t.Errorf("%s listens on %q, which is not in its volume: other containers do not reach it", name, listen)
		}
		if admin := value(s, "SPILLWAY_ADMIN_LISTEN"); !strings.HasPrefix(admin, "127.0.0.1:") {
			t.Errorf("%s: admin listener %q, which the health check asks", name, admin)
		}
	}
}
