// Package takeover takes the product's real processes away under load, in order
// and not, and lets an independent checker judge from what was sent, what ran and
// what the log says. It runs on the embedded broker; the TestApache… forms run the
// same on Apache Kafka.
//
// Each test prints a row; all rows are printed at the end.
package takeover

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/spillway/spillway/test/history"
	"github.com/spillway/spillway/test/product"
)

const sideBySide = "3"

func TestMain(m *testing.M) {
	if code, was := history.Worker(); was {
		os.Exit(code)
	}
	// The tests wait much longer than they compute: for sessions to end, for what a
	// crash left behind. So more of them run side by side than there are cores, unless
	// the command line says how many.
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", sideBySide)
	}
	code := product.Main(m)
	rows.print()
	os.Exit(code)
}

// table is what the tests measured, in the order in which they ended.
type table struct {
	mu    sync.Mutex
	lines []string
}

var rows table

const header = "| fault | broker | sent | accepted | failed calls | longest call | lost | duplicates | overlaps | takeovers | longest without owner | longest beyond it | fresh: longest (p99) wait | found in the log: longest wait | in flight: longest to its end |\n" +
	"|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"

func (r *table) add(t *testing.T, line string) {
	t.Helper()
	t.Logf("\n%s\n%s", header, line)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

func (r *table) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == 0 {
		return
	}
	fmt.Println(header)
	for _, line := range r.lines {
		fmt.Println(line)
	}
}
