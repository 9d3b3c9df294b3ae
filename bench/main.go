// Command bench measures the product whole, by its own load generator, and prints a table with what was asked beside it.
//
//	go run ./bench [flags] isolation    B1 and B2 with 1 and 3 schedulers, three runs each: about 22 minutes
//	go run ./bench [flags] throughput   empty jobs from first send to last outcome, five runs: about one minute
//	go run ./bench [flags] stalled      what websocket clients who stop reading cost the others, three pairs: about four minutes
//	go run ./bench [flags] sockets      sockets and jobs cannot take each other down: three workloads, three to five runs each: about ten minutes
//
//	-runs N      runs of each workload
//	-brokers N   on Apache Kafka with 1 or 3 brokers (test/apache) instead of the embedded broker
//	-only NAME   only the rows whose name begins so, as B1 or B2/3, and of sockets the workload: dead, full or flood
//
// Every figure is the median of its runs, and the runs' own figures follow. Each run starts a fresh installation, on Apache Kafka in a fresh
// cluster. Compare ratios inside one session: the speed of small machines drifts by a quarter.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// quantiles, group, report and process are the parts of `spillway load -o json` that are used here.
type quantiles struct {
	P50, P99, Max float64
}

type group struct {
	Name     string
	Finished int
	Wait     quantiles `json:"wait_ms"`
}

type report struct {
	Flows, Groups []group
	Quiet         struct{ Groups []group }
	Ledger        struct{ Sent, Accepted, Succeeded, Remaining, Lost, Duplicates int }
	Processes     []process
	Run           struct {
		Sending float64 `json:"sending_s"`
		Drain   float64 `json:"drain_s"`
	}
}

type process struct {
	Name string
	CPU  float64 `json:"cpu_s"`
	Peak int64   `json:"peak_rss_bytes"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var b bench
	runs := flag.Int("runs", 0, "runs of each workload (default 3, but 5 for throughput and the full sockets)")
	flag.IntVar(&b.brokers, "brokers", 0, "1 or 3 brokers of Apache Kafka (default: the embedded broker)")
	flag.StringVar(&b.only, "only", "", "only rows of isolation whose `name` begins so: B1, B2, B1/1, B1/3 …; or that workload of sockets: dead, full, flood")
	flag.Parse()
	defer func() { _ = os.RemoveAll(b.dir) }()
	if err := b.build(); err != nil {
		return err
	}
	switch flag.Arg(0) {
	case "isolation":
		return b.isolation(cmp.Or(*runs, 3))
	case "throughput":
		return b.throughput(cmp.Or(*runs, 5))
	case "stalled":
		return b.stalled(cmp.Or(*runs, 3))
	case "sockets":
		return b.sockets(*runs)
	}
	return fmt.Errorf("usage: bench [flags] isolation|throughput|stalled|sockets")
}

// bench is one call of the command.
type bench struct {
	dir     string // of the binaries that are measured and used
	brokers int    // of Apache Kafka; 0: the embedded broker
	only    string
}

// build makes the binaries.
func (b *bench) build() error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/spillway/spillway").Output()
	if err != nil {
		return fmt.Errorf("run it inside the workspace: %w", err)
	}
	if b.dir, err = os.MkdirTemp("", "spillway-bench-"); err != nil {
		return err
	}
	for name, path := range map[string]string{"spillway": "./cmd/spillway", "kafka": "./test/apache/kafka"} {
		build := exec.Command("go", "build", "-o", filepath.Join(b.dir, name), path)
		build.Dir, build.Stderr = strings.TrimSpace(string(root)), os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
	}
	return nil
}

// log names what the run's records are kept in.
func (b *bench) log() string {
	switch b.brokers {
	case 0:
		return "embedded broker"
	case 1:
		return "Apache Kafka, 1 broker"
	}
	return fmt.Sprintf("Apache Kafka, %d brokers", b.brokers)
}

// kafka starts a cluster and returns its addresses; stop ends it.
func (b *bench) kafka() (addresses string, stop func(), err error) {
	cmd := exec.Command(filepath.Join(b.dir, "kafka"), "-brokers", strconv.Itoa(b.brokers), "-until-stdin-closes")
	cmd.Stderr = os.Stderr
	lifeline, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = lifeline.Close() // it ends for this reason alone
		_ = cmd.Wait()
	}
	addresses, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("start Apache Kafka: %w", err)
	}
	return strings.TrimSpace(addresses), stop, nil
}

// load runs the generator once. A run that lost a job is no measurement.
func (b *bench) load(args ...string) (report, error) {
	var r report
	args = append([]string{"load", "-o", "json", "--data-dir", filepath.Join(b.dir, "none")}, args...)
	if b.brokers > 0 {
		addresses, stop, err := b.kafka()
		if err != nil {
			return r, err
		}
		defer stop()
		args = append(args, "--kafka", addresses)
	}
	cmd := exec.Command(filepath.Join(b.dir, "spillway"), args...)
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("spillway %s: %w", strings.Join(args, " "), err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, err
	}
	if r.Ledger.Lost > 0 {
		return r, fmt.Errorf("%d jobs were lost", r.Ledger.Lost)
	}
	return r, nil
}

func named(list []group, name string) group {
	i := slices.IndexFunc(list, func(g group) bool { return g.Name == name })
	if i < 0 {
		return group{}
	}
	return list[i]
}

func (b *bench) isolation(runs int) error {
	fmt.Printf("%d cores, %s, %s, 64 slots, 20 victims at 10 jobs/s of 20 ms, %d runs each, %s\n\n",
		runtime.NumCPU(), runtime.Version(), b.log(), runs, time.Now().UTC().Format(time.DateOnly))
	fmt.Println("| workload | schedulers | quiet p99 | victims' p50 | victims' p99 | worst victim's p99 | flood jobs done | scheduler RSS |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, workload := range []struct{ id, flood string }{{"B1", "flood=10000,work=20ms"}, {"B2", "flood=200,hang=100%:10s"}} {
		for _, schedulers := range []int{1, 3} {
			if !strings.HasPrefix(fmt.Sprintf("%s/%d", workload.id, schedulers), b.only) {
				continue
			}
			var quiet, p50, p99, worst, done, memory []float64
			for range runs {
				r, err := b.load("--flow", "victim*20=10,work=20ms", "--flow", workload.flood, "--workers", "64",
					"--quiet", "15s", "--for", "30s", "--drain", "60s", "--schedulers", strconv.Itoa(schedulers))
				if err != nil {
					return err
				}
				victims, slowest, rss := named(r.Groups, "victim"), 0.0, int64(0)
				for _, f := range r.Flows {
					if strings.HasPrefix(f.Name, "victim-") {
						slowest = max(slowest, f.Wait.P99)
					}
				}
				for _, p := range r.Processes {
					if strings.HasPrefix(p.Name, "scheduler") {
						rss = max(rss, p.Peak)
					}
				}
				quiet, p50, p99 = append(quiet, named(r.Quiet.Groups, "victim").Wait.P99), append(p50, victims.Wait.P50), append(p99, victims.Wait.P99)
				worst, done = append(worst, slowest), append(done, float64(named(r.Flows, "flood").Finished))
				memory = append(memory, float64(rss)/(1<<20))
			}
			fmt.Printf("| %s | %d | %s ms | %s ms | %s ms | %s ms | %s | %s MiB |\n", workload.id, schedulers,
				show(quiet), show(p50), show(p99), show(worst), show(done), show(memory))
		}
	}
	return nil
}

func (b *bench) throughput(runs int) error {
	var rate, cost []float64
	shares := map[string][]float64{}
	for range runs {
		r, err := b.load("--flow", "f*8=6000", "--workers", "64", "--for", "2s", "--drain", "60s")
		if err != nil {
			return err
		}
		jobs, cpu := float64(r.Ledger.Sent), 0.0
		for _, p := range r.Processes {
			cpu += p.CPU
			shares[p.Name] = append(shares[p.Name], p.CPU/jobs*1e6)
		}
		rate, cost = append(rate, float64(r.Ledger.Succeeded)/(r.Run.Sending+r.Run.Drain)), append(cost, cpu/jobs*1e6)
	}
	fmt.Printf("%d cores, %s, empty jobs in 8 flows, 64 slots, %d runs\n\n| end to end | CPU per job |", runtime.NumCPU(), b.log(), runs)
	names := make([]string, 0, len(shares))
	for name := range shares {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Printf(" %s |", name)
	}
	fmt.Printf("\n|%s\n| %s /s | %s µs |", strings.Repeat("---|", 2+len(names)), show(rate), show(cost))
	for _, name := range names {
		fmt.Printf(" %s µs |", show(shares[name]))
	}
	fmt.Println()
	return nil
}

// show is the median, and the runs in their order behind it.
func show(values []float64) string {
	sorted := slices.Sorted(slices.Values(values))
	text := make([]string, len(values))
	for i, v := range values {
		text[i] = number(v)
	}
	return fmt.Sprintf("**%s** (%s)", number(sorted[len(sorted)/2]), strings.Join(text, ", "))
}

func number(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// percent shows shares of one, to a thousandth.
func percent(shares []float64) string {
	text := make([]string, len(shares))
	for i, v := range shares {
		text[i] = strconv.FormatFloat(v, 'f', 3, 64)
	}
	sorted := slices.Sorted(slices.Values(shares))
	return fmt.Sprintf("**%.3f** (%s)", sorted[len(sorted)/2], strings.Join(text, ", "))
}
