package work

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/process"
)

// Command is the hidden subcommand of `spillway load` whose main is Main.
const Command = "worker"

// poolVariable carries the Config to a worker process; the arguments of a
// process are readable by everybody, its environment is not.
const poolVariable = "SPILLWAY_LOAD_POOL"

// Main is the main of a worker process.
func Main(ctx context.Context, log *slog.Logger) error {
	var cfg Config
	if err := json.Unmarshal([]byte(os.Getenv(poolVariable)), &cfg); err != nil {
		return fmt.Errorf("this command is started by `spillway load --worker-processes`: %w", err)
	}
	ctx, cancel := process.UntilParentEnds(ctx)
	defer cancel()
	return Run(ctx, cfg, NewReporter(os.Stdout), log)
}

// Processes are the worker processes of a run.
type Processes struct {
	processes []*process.Process

	mu   sync.Mutex
	pids []int // all that there were, in order of their start
	said map[int]bool
	tell func(pids []int)
}

// workerCeiling is what a worker process may take: it holds its slots' jobs, at
// most the largest payload each.
const workerCeiling = 512 << 20

// NewProcesses describes n worker processes that share cfg's slots. tell is
// called with the pids that run whenever one was started.
func NewProcesses(n int, cfg Config, to Events, out *process.Output, log *slog.Logger, tell func([]int)) (*Processes, error) {
	ws := &Processes{said: make(map[int]bool), tell: tell}
	for i := range n {
		own := cfg
		own.Slots, own.Workers = cfg.Slots/n, 1
		if i < cfg.Slots%n {
			own.Slots++
		}
		b, err := json.Marshal(own)
		if err != nil {
			return nil, fmt.Errorf("worker process: %w", err)
		}
		ws.processes = append(ws.processes, process.New(process.Spec{
			Name: "worker-" + strconv.Itoa(i), Args: []string{"load", Command}, Env: []string{poolVariable + "=" + string(b)},
			Ceiling: workerCeiling, Grace: Leave + 2*time.Second,
			Stdout: func(r io.Reader) { ReadFrames(r, to) },
		}, out, log, ws.changed))
	}
	return ws, nil
}

// changed notes pids that were not there before.
func (w *Processes) changed() {
	w.mu.Lock()
	var running []int
	fresh := false
	for _, p := range w.processes {
		pid := p.PID()
		if pid == 0 {
			continue
		}
		running = append(running, pid)
		if !w.said[pid] {
			w.said[pid], fresh = true, true
			w.pids = append(w.pids, pid)
		}
	}
	w.mu.Unlock()
	if fresh && len(running) == len(w.processes) {
		w.tell(running)
	}
}

// PIDs returns the process ids of all worker processes that there were.
func (w *Processes) PIDs() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]int{}, w.pids...)
}

// Run keeps the processes running until ctx ends.
func (w *Processes) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range w.processes {
		all.Go(func() { p.Run(ctx) })
	}
	all.Wait()
}
