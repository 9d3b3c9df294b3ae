package laws

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// cores are the packages that decide: pure rules, tested against oracles.
var cores = []string{"services/*/internal/core", "pkg/offsets", "pkg/share"}

// pure are the standard packages that can neither wait, block, read a clock nor
// reach the world.
var pure = []string{
	"bytes", "cmp", "container/heap", "container/list", "container/ring", "crypto/sha256", "encoding/base64", "encoding/binary", "encoding/hex",
	"errors", "fmt", "hash/fnv", "hash/maphash", "iter", "maps", "math", "math/bits", "math/cmplx", "math/rand/v2", "path", "reflect", "regexp", "slices", "sort",
	"strconv", "strings", "time", "unicode", "unicode/utf8",
}

// clocks are the names of package time that read the clock or wait.
var clocks = []string{"Now", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Since", "Until"}

func TestCoreIsPure(t *testing.T) {
	for _, s := range product(t) {
		if !s.in(cores...) {
			continue
		}
		for _, p := range s.imports {
			core := strings.HasPrefix(p, module+"/services/") && strings.Contains(p, "/internal/core")
			if !slices.Contains(pure, p) && !core && !below(p, "pkg/offsets", "pkg/share") {
				t.Errorf("%s imports %s: core decides, so that every rule can be tested in virtual time and replayed; it reaches nothing", s.path, p)
			}
		}
		s.uses(func(pkg, name string, at ast.Node) {
			if pkg == "time" && slices.Contains(clocks, name) {
				t.Errorf("%s uses time.%s: core is given the time", s.position(at), name)
			}
		})
	}
}

func TestRoomsKeepApart(t *testing.T) {
	for _, s := range product(t) {
		service, room, ok := roomOf(s.dir)
		if !ok {
			continue
		}
		for _, p := range s.imports {
			own := "services/" + service + "/internal/"
			switch {
			case room == "api":
				allowed := standard(p) || below(p, own+"core", own+"api", "proto/gen", "pkg/envelope", "pkg/rpc", "pkg/telemetry") ||
					strings.HasPrefix(p, "google.golang.org/") || strings.HasPrefix(p, "go.opentelemetry.io/otel")
				if !allowed || p == "net" || strings.HasPrefix(p, "net/") || p == "os" {
					t.Errorf("%s imports %s: api translates between proto and core; it owns no log and no socket", s.path, p)
				}
			case room != "core" && below(p, own+"api"):
				t.Errorf("%s imports %s: rooms and api meet in core types, wired by the front door", s.path, p)
			}
		}
	}
}

// roomOf splits services/<service>/internal/<room>.
func roomOf(dir string) (service, room string, ok bool) {
	parts := strings.Split(dir, "/")
	if len(parts) < 4 || parts[0] != "services" || parts[2] != "internal" {
		return "", "", false
	}
	return parts[1], parts[3], true
}

func TestServicesShareNothingButKafka(t *testing.T) {
	for _, s := range tree(t) {
		own := strings.Join(strings.SplitN(s.dir+"//", "/", 3)[:2], "/") // services/<name>
		for _, p := range s.imports {
			switch {
			case s.in("services") && below(p, "services") && !below(p, own):
				t.Errorf("%s imports %s: a service never imports another, they meet in the log and in proto", s.path, p)
			case s.in("pkg") && !s.test && below(p, "services", "cmd", "test"):
				t.Errorf("%s imports %s: pkg is what users import, it knows no service", s.path, p)
			case s.in("services") && below(p, "cmd"):
				t.Errorf("%s imports %s: commands start services, not the other way round", s.path, p)
			}
		}
	}
}

// pkgEdges are the imports between packages of pkg: a new one is a decision.
var pkgEdges = map[string][]string{
	"pkg/client":                  {"pkg/envelope", "pkg/rpc", "pkg/telemetry"},
	"pkg/config":                  {},
	"pkg/controllog":              {"pkg/envelope", "pkg/kafka"},
	"pkg/envelope":                {},
	"pkg/kafka":                   {"pkg/config", "pkg/envelope"},
	"pkg/kafka/kafkatest":         {"pkg/kafka"},
	"pkg/kafka/produce":           {"pkg/kafka", "pkg/envelope"},
	"pkg/kafka/rights":            {"pkg/kafka"},
	"pkg/kafka/rights/rightstest": {"pkg/kafka", "pkg/kafka/rights"},
	"pkg/kafka/shard":             {"pkg/kafka", "pkg/offsets", "pkg/lifecycle"},
	"pkg/lifecycle":               {},
	"pkg/offsets":                 {},
	"pkg/rpc":                     {"pkg/config", "pkg/telemetry"},
	"pkg/rpc/receive":             {},
	"pkg/rpc/rpctest":             {"pkg/rpc"},
	"pkg/share":                   {},
	"pkg/status":                  {"pkg/kafka", "pkg/envelope"},
	"pkg/subscriber":              {},
	"pkg/telemetry":               {},
	"pkg/telemetry/export":        {"pkg/telemetry"},
	"pkg/worker":                  {"pkg/client", "pkg/envelope", "pkg/rpc", "pkg/share", "pkg/telemetry", "pkg/lifecycle"},
}

func TestEdgesBetweenPackages(t *testing.T) {
	for _, s := range product(t) {
		if !s.in("pkg") {
			continue
		}
		allowed, listed := pkgEdges[s.dir]
		if !listed {
			t.Errorf("%s: package %s is not in the table of edges", s.path, s.dir)
			continue
		}
		for _, p := range s.imports {
			if below(p, "pkg") && !slices.Contains(allowed, strings.TrimPrefix(p, module+"/")) {
				t.Errorf("%s imports %s: an edge that the table does not have", s.path, p)
			}
		}
	}
}

// homes are third-party packages that only some folders may import.
var homes = []struct {
	prefix  string
	folders []string
	tests   bool // tests may import it anywhere
	reason  string
}{
	{"github.com/segmentio/kafka-go", []string{"pkg/kafka", "test/broker", "cmd/spillway/internal/replay/plain"}, false,
		"the log's client can be exchanged in one place; the replay's opponent is a plain consumer, which has nothing of ours"},
	{"github.com/twmb/franz-go", []string{"cmd/spillway/internal/broker", "pkg/kafka/kafkatest", "test"}, false, "the embedded broker is for local use and for tests"},
	{"go.opentelemetry.io/otel/sdk", []string{"pkg/telemetry"}, true, "who exports what is decided in one place"},
	{"go.opentelemetry.io/contrib/exporters", []string{"pkg/telemetry"}, true, "who exports what is decided in one place"},
	{"go.opentelemetry.io/otel/exporters", []string{"pkg/telemetry"}, true, "who exports what is decided in one place"},
	{"github.com/spf13/", []string{"cmd"}, false, "only commands parse flags"},
	{"github.com/golang-jwt/", []string{"pkg/rpc"}, true, "tokens are made and judged in one place"},
	{"buf.build/go/protovalidate", []string{"pkg/rpc"}, true, "requests are validated in the interceptor"},
	{"github.com/gobwas/", []string{"services/notifier/internal/deliver"}, false, "one package owns the sockets, so that their codec can be exchanged"},
	{"github.com/coder/websocket", []string{"pkg/subscriber", "cmd", "test"}, true, "clients of the notifier use pkg/subscriber"},
	{"pgregory.net/rapid", nil, true, "a test's library"},
	{"go.uber.org/goleak", nil, true, "a test's library"},
}

func TestThirdPartiesHaveTheirHomes(t *testing.T) {
	for _, s := range tree(t) {
		if s.in("tools") {
			continue
		}
		for _, p := range s.imports {
			for _, h := range homes {
				if strings.HasPrefix(p, h.prefix) && !s.in(h.folders...) && !(h.tests && s.test) {
					t.Errorf("%s imports %s, which belongs to %v: %s", s.path, p, h.folders, h.reason)
				}
			}
		}
	}
}

// serviceParties are the third-party imports that services may have, beside the
// homes above.
var serviceParties = []string{"google.golang.org/grpc", "google.golang.org/protobuf", "google.golang.org/genproto", "go.opentelemetry.io/otel", "golang.org/x/sync", "github.com/gobwas/ws"}

func TestThirdPartiesOfServices(t *testing.T) {
	for _, s := range product(t) {
		if !s.in("services") {
			continue
		}
		for _, p := range s.imports {
			if standard(p) || strings.HasPrefix(p, module+"/") || slices.ContainsFunc(serviceParties, func(q string) bool { return strings.HasPrefix(p, q) }) {
				continue
			}
			t.Errorf("%s imports %s: not among the third parties of a service", s.path, p)
		}
	}
}
