package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
)

// A worker process reports on its standard output, one frame for each start and
// each end of a handler. A frame is written in one piece before the handler goes
// on, so a start that had any effect is known even if the process is killed in
// the next instruction.
const (
	frameBytes    = 32
	frameStarted  = 1
	frameFinished = 2
)

// poolVariable carries the poolConfig to a worker process; the arguments of a
// process are readable by everybody, its environment is not.
const poolVariable = "SPILLWAY_LOAD_POOL"

func appendFrame(b []byte, kind uint8, in plan.Instruction, at time.Time) []byte {
	b = append(b, kind, 0, 0, 0, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, in.Seed)
	b = binary.BigEndian.AppendUint32(b, in.Flow)
	b = binary.BigEndian.AppendUint32(b, in.Seq)
	return binary.BigEndian.AppendUint64(b, uint64(at.UnixNano()))
}

// reporter is the events of a worker process.
type reporter struct{ w io.Writer }

func (r reporter) write(kind uint8, in plan.Instruction, at time.Time) {
	var b [frameBytes]byte
	if _, err := r.w.Write(appendFrame(b[:0], kind, in, at)); err != nil {
		// Nobody listens any more: the process is about to be stopped.
		slog.Debug("report lost", "error", err)
	}
}

func (r reporter) started(in plan.Instruction, at time.Time)  { r.write(frameStarted, in, at) }
func (r reporter) finished(in plan.Instruction, at time.Time) { r.write(frameFinished, in, at) }

// readFrames passes on what a worker process reports until it ends.
func readFrames(r io.Reader, to events) {
	in := bufio.NewReaderSize(r, 64<<10)
	var b [frameBytes]byte
	for {
		if _, err := io.ReadFull(in, b[:]); err != nil {
			return // killed or stopped; a part of a frame is none
		}
		job := plan.Instruction{
			Seed: binary.BigEndian.Uint64(b[8:]), Flow: binary.BigEndian.Uint32(b[16:]), Seq: binary.BigEndian.Uint32(b[20:]),
		}
		at := time.Unix(0, int64(binary.BigEndian.Uint64(b[24:])))
		switch b[0] {
		case frameStarted:
			to.started(job, at)
		case frameFinished:
			to.finished(job, at)
		}
	}
}

// runWorker is the main of a worker process.
func runWorker(ctx context.Context, log *slog.Logger) error {
	var cfg poolConfig
	if err := json.Unmarshal([]byte(os.Getenv(poolVariable)), &cfg); err != nil {
		return fmt.Errorf("this command is started by `spillway load --worker-processes`: %w", err)
	}
	ctx, cancel := process.UntilParentEnds(ctx)
	defer cancel()
	return runPool(ctx, cfg, reporter{os.Stdout}, log)
}

// workers are the worker processes of a run.
type workers struct {
	processes []*process.Process

	mu   sync.Mutex
	pids []int // all that there were, in order of their start
	said map[int]bool
	tell func(pids []int)
}

// workerCeiling is what a worker process may take: it holds its slots' jobs, at
// most the largest payload each.
const workerCeiling = 512 << 20

// newWorkers describes n worker processes that share cfg's slots. tell is
// called with the pids that run whenever one was started.
func newWorkers(n int, cfg poolConfig, to events, out *process.Output, log *slog.Logger, tell func([]int)) (*workers, error) {
	ws := &workers{said: make(map[int]bool), tell: tell}
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
			Name: "worker-" + strconv.Itoa(i), Args: []string{"load", workerCommand}, Env: []string{poolVariable + "=" + string(b)},
			Ceiling: workerCeiling, Grace: leave + 2*time.Second,
			Stdout: func(r io.Reader) { readFrames(r, to) },
		}, out, log, ws.changed))
	}
	return ws, nil
}

// changed notes pids that were not there before.
func (w *workers) changed() {
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
func (w *workers) PIDs() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]int{}, w.pids...)
}

// run keeps the processes running until ctx ends.
func (w *workers) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range w.processes {
		all.Go(func() { p.Run(ctx) })
	}
	all.Wait()
}
