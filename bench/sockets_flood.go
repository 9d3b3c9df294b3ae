package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	floodSlots   = 25
	floodWork    = 50 * time.Millisecond
	floodRate    = 10_000 // jobs/s, where 25 slots of 50 ms can run 500
	floodFor     = 10 * time.Second
	floodWarm    = 3 * time.Second
	floodClients = 100
	floodMessage = 200 // notifications/s
)

// floodRun is one pair. Times are in milliseconds, memory in MiB.
type floodRun struct {
	alone, beside           [2]float64 // p50, p99
	offered, accepted, left float64    // jobs/s; jobs
	notifier, scheduler     float64
}

// socketsFlood measures what notifications pay for jobs that nobody can run in time.
func (b *bench) socketsFlood(ctx context.Context, runs int) error {
	fmt.Printf("\nJobs at %d × capacity: one source enqueues %d/s, %d slots of %v. %d clients of one channel, %d notifications/s of 256 to 1,024 bytes for %v, from when each was due until a client has read it, %d pairs.\n",
		floodRate*int(floodWork/time.Millisecond)/1000/floodSlots, floodRate, floodSlots, floodWork, floodClients, floodMessage, floodFor, runs)
	fmt.Println("The generator of the flood and the clients are on the same cores: what they take shows in the second row as well.")
	var alone, beside [2][]float64
	var ratio, allowed, offered, accepted, left, notifier, scheduler []float64
	for range runs {
		r, err := b.floodOnce(ctx)
		if err != nil {
			return err
		}
		for q := range alone {
			alone[q], beside[q] = append(alone[q], r.alone[q]), append(beside[q], r.beside[q])
		}
		ratio, allowed = append(ratio, r.beside[1]/r.alone[1]), append(allowed, limit(r.alone[1]))
		offered, accepted, left = append(offered, r.offered), append(accepted, r.accepted), append(left, r.left)
		notifier, scheduler = append(notifier, r.notifier), append(scheduler, r.scheduler)
	}
	fmt.Printf("\n| | p50 | p99 | asked of p99 |\n|---|---|---|---|\n")
	fmt.Printf("| no jobs | %s ms | %s ms | |\n", show(alone[0]), show(alone[1]))
	fmt.Printf("| the flood beside it | %s ms | %s ms | ≤ %s ms: max(1.1 ×, + 5 ms) of each pair |\n", show(beside[0]), show(beside[1]), show(allowed))
	fmt.Printf("| the second over the first | | %s | |\n\n", show(ratio))
	fmt.Printf("| jobs sent | accepted | left at the end | notifier RSS | scheduler RSS |\n|---|---|---|---|---|\n| %s /s | %s /s | %s | %s MiB | %s MiB |\n",
		show(offered), show(accepted), show(left), show(notifier), show(scheduler))
	return nil
}

// floodOnce is a pair in an installation of its own, since what the flood leaves behind would be in the next one's way.
func (b *bench) floodOnce(ctx context.Context) (r floodRun, err error) {
	i, err := b.install()
	if i != nil {
		defer i.stop()
	}
	if err != nil {
		return r, err
	}
	if err := i.register(benchSource, nil, workType); err != nil {
		return r, err
	}
	side := func(d time.Duration) (figures [2]float64, err error) {
		c, err := i.crowd(floodClients, 0)
		if err != nil {
			return figures, err
		}
		defer c.leave()
		if err := i.send(ctx, floodMessage, d); err != nil {
			return figures, err
		}
		if err := c.end(ctx, int(floodMessage*d.Seconds())); err != nil {
			return figures, err
		}
		return [2]float64{at(c.ages, .5), at(c.ages, .99)}, nil
	}
	if _, err := side(floodWarm); err != nil {
		return r, err
	}
	if r.alone, err = side(floodFor); err != nil {
		return r, err
	}
	f, err := i.flood(ctx)
	if err != nil {
		return r, err
	}
	defer f.kill()
	if r.beside, err = side(floodFor); err != nil {
		return r, err
	}
	report, err := f.finish()
	if err != nil {
		return r, err
	}
	if report.Ledger.Lost > 0 {
		return r, fmt.Errorf("%d jobs were lost", report.Ledger.Lost)
	}
	seconds := report.Run.Sending
	r.offered, r.accepted, r.left = float64(report.Ledger.Sent)/seconds, float64(report.Ledger.Accepted)/seconds, float64(report.Ledger.Remaining)
	if r.notifier, err = peak(i.pid("notifier")); err != nil {
		return r, err
	}
	if r.scheduler, err = peak(i.pid("scheduler")); err != nil {
		return r, err
	}
	return r, i.intact(-1) // most of its jobs are left
}

// flood is a `spillway load` beside what is measured, a process of its own.
type flood struct {
	cmd  *exec.Cmd
	gone chan struct{}
	out  bytes.Buffer
}

// flood starts one and returns when it sends.
func (i *installation) flood(ctx context.Context) (*flood, error) {
	f := &flood{gone: make(chan struct{})}
	// It is told to end when the measuring is over; a minute is only so that it does not before.
	f.cmd = exec.Command(i.bin, "load", "-o", "json", "--data-dir", i.File.DataDir, "--ids", filepath.Join(i.File.DataDir, "flood.ids"),
		"--flow", "flood="+strconv.Itoa(floodRate)+",work="+floodWork.String(), "--workers", strconv.Itoa(floodSlots), "--for", "1m", "--drain", "0s")
	f.cmd.Stdout = &f.out
	said, err := f.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	sending := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(said)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "sending") {
				close(sending)
				break
			}
			fmt.Fprintln(os.Stderr, lines.Text())
		}
		_, _ = io.Copy(os.Stderr, said) // Wait closes it: everything has to be read first
		_ = f.cmd.Wait()
		close(f.gone)
	}()
	select {
	case <-sending:
		return f, nil
	case <-f.gone:
		err = errors.New("load has ended")
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(readyTime):
		err = errors.New("load does not send")
	}
	f.kill()
	return nil, err
}

// finish ends the sending and returns load's report.
func (f *flood) finish() (report, error) {
	var r report
	select {
	case <-f.gone:
		return r, errors.New("load has ended before it was told to")
	default:
	}
	end(f.cmd, f.gone, os.Interrupt)
	if state := f.cmd.ProcessState; !state.Success() {
		return r, fmt.Errorf("load: %v: %s", state, f.out.String())
	}
	return r, json.Unmarshal(f.out.Bytes(), &r)
}

func (f *flood) kill() { end(f.cmd, f.gone, os.Kill) }
