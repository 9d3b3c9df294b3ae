package intake

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// TestEveryRecordHasItsEnd: each kind of record goes where the engine, the history or its own form says, and none stands in the way of the next.
func TestEveryRecordHasItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		w := &account{kind: core.Topic(core.Default), past: map[int64]core.Past{6: {Settled: true}}}
		want := []string{}
		for _, c := range []struct {
			value []byte
			want  string
		}{
			{record(spec{n: 1, source: "crm"}), "[]"},                                             // queued
			{[]byte("no job"), "[park]"},                                                          // undecodable
			{record(spec{n: 1, source: "crm"}), "[complete]"},                                     // the same job once more
			{record(spec{n: 1, source: "crm", payload: "other"}), "[OUTCOME_SUPERSEDED]"},         // its key with another payload
			{record(spec{n: 2, source: "crm", expires: time.Now().Add(-1)}), "[OUTCOME_EXPIRED]"}, // too late
			{record(spec{n: 3, source: "held"}), "[spill]"},                                       // must not wait here
			{record(spec{n: 4, source: "crm"}), "[complete]"},                                     // a former owner settled it
			{record(spec{n: 5, source: "crm"}), "[]"},                                             // queued
			{append(record(spec{n: 6, source: "crm"}), 0xff), "[park]"},                           // cut off
			{record(spec{n: 7, source: "crm"}), "[]"},                                             // queued
		} {
			r.append(c.value)
			want = append(want, c.want)
		}
		stop := read(t.Context(), r.reader().ReadPriority, w)
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for offset, want := range want {
			if got := fmt.Sprint(r.fate(int64(offset))); got != want {
				t.Errorf("record %d: %s, want %s", offset, got, want)
			}
		}
		if w.Next() != int64(len(want)) {
			t.Errorf("read up to %d", w.Next())
		}
	})
}

// TestHistoryGoesWithTheJob: attempts, retry time and quarantine of former owners are the engine's to keep to (H6, H13).
func TestHistoryGoesWithTheJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		until := time.Now().Add(29 * time.Second)
		w := &account{kind: core.Topic(core.Default), past: map[int64]core.Past{0: {Attempts: 3, Quarantine: until}, 1: {RetryAt: until.Add(-20 * time.Second)}}}
		r.append(record(spec{n: 1, source: "crm"}), record(spec{n: 2, source: "crm"}), record(spec{n: 3, source: "crm"}))
		stop := read(t.Context(), r.reader().ReadPriority, w)
		defer func() { _ = stop() }()
		r.Do(func(now time.Time, e *core.Engine) {
			e.Join(now, core.Worker{ID: "w", Types: []string{"tag"}, Concurrency: 10})
			e.Credit(now, "w", 10, 0)
		})
		attempts := map[byte]int32{}
		at := map[byte]time.Duration{}
		began := time.Now()
		for time.Since(began) < 40*time.Second {
			time.Sleep(10 * time.Millisecond)
			r.Do(func(now time.Time, e *core.Engine) {
				e.Tick(now)
				for a := e.Next(now); a.Kind != core.Idle; a = e.Next(now) {
					if a.Kind == core.Grant {
						n := byte(a.Lease.Job.Home.Offset)
						attempts[n], at[n] = a.Lease.Attempt, time.Since(began).Round(time.Second)
					}
				}
			})
		}
		got := fmt.Sprint(attempts, at)
		if len(at) != 3 {
			t.Fatalf("granted %s", got)
		}
		var order []time.Duration
		for _, d := range at {
			order = append(order, d)
		}
		slices.Sort(order)
		if !slices.Equal(order, []time.Duration{0, 9 * time.Second, 29 * time.Second}) {
			t.Errorf("granted %s", got)
		}
		most := int32(0)
		for _, n := range attempts {
			most = max(most, n)
		}
		if most != 4 {
			t.Errorf("attempts %s, want one of number 4", got)
		}
	})
}

// TestCopyMadeInQuarantineIsInherited: a job that went to its lane right after a takeover, because there was no room, is still its worker's, whether
// that worker is heard before the copy is read or after it: or it would run twice at the same time (H6, I5).
func TestCopyMadeInQuarantineIsInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		until := time.Now().Add(29 * time.Second)
		copied := []kafka.Header{envelope.VersionHeader(), envelope.EncodeTransit(&logv1.Transit{Epoch: 1, Moves: 1, ReadyAt: timestamppb.New(until)})}
		r.append(record(spec{n: 1, source: "crm"}), record(spec{n: 2, source: "crm"}), record(spec{n: 3, source: "crm"}))
		ids := make([]core.JobID, len(r.log))
		for i := range r.log {
			if i < 2 {
				r.log[i].Headers = copied
			}
			job, err := decode(r.log[i], 0, core.Home{})
			if err != nil {
				t.Fatal(err)
			}
			ids[i] = job.ID
		}
		inherit := func(i int) (yes bool) {
			r.Do(func(now time.Time, e *core.Engine) {
				yes = e.Inherit(now, "w", "crm", ids[i], core.Token{Counter: int64(i + 1)}, now)
			})
			return yes
		}
		if !inherit(0) {
			t.Error("not remembered before it is read")
		}
		stop := read(t.Context(), r.reader().ReadPriority, &account{kind: core.Topic(core.Default)})
		defer func() { _ = stop() }()
		time.Sleep(time.Second)
		if !inherit(1) {
			t.Error("not inherited after it was read")
		}
		if inherit(2) {
			t.Error("a job was inherited that nobody can have granted")
		}
		r.Do(func(now time.Time, e *core.Engine) {
			if renewed, _ := e.Renew(now, "w", []core.Token{{Counter: 1}, {Counter: 2}}); len(renewed) != 2 {
				t.Errorf("renewed %v", renewed)
			}
			if leases := e.Held(now, 0); len(leases) != 2 {
				t.Errorf("leases %+v", leases)
			}
			e.Join(now, core.Worker{ID: "x", Types: []string{"tag"}, Concurrency: 10})
			e.Credit(now, "x", 10, 0)
			for a := e.Next(now.Add(30 * time.Second)); a.Kind != core.Idle; a = e.Next(now.Add(30 * time.Second)) {
				if a.Kind == core.Grant && a.Lease.Job.ID != ids[2] {
					t.Errorf("granted while its worker has it: %+v", a.Lease)
				}
			}
		})
	})
}

// TestUnknownSourceWaitsForTheControlLog: a record of a source that is not folded yet waits until the control log was confirmed after it was read,
// and is parked only then (architecture §6.2).
func TestUnknownSourceWaitsForTheControlLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		w := &account{kind: core.Topic(core.Default)}
		r.append(record(spec{n: 1, source: "new"}), record(spec{n: 2, source: "nobody"}), record(spec{n: 3, source: "crm"}))
		stop := read(t.Context(), r.reader().ReadPriority, w)
		defer func() { _ = stop() }()
		time.Sleep(5 * time.Second)
		if w.Next() != 1 || len(r.fate(0)) != 0 {
			t.Fatalf("went on without the control log: read up to %d, %v", w.Next(), r.fate(0))
		}
		r.mu.Lock()
		r.sources["new"], r.at = true, time.Now()
		r.mu.Unlock()
		time.Sleep(time.Second)
		if len(r.fate(0)) != 0 || fmt.Sprint(r.fate(1)) != "[park]" || w.Next() != 3 {
			t.Fatalf("fates %v and %v, read up to %d: one confirmation is enough for what was read together", r.fate(0), r.fate(1), w.Next())
		}
		r.append(record(spec{n: 4, source: "nobody"}))
		time.Sleep(time.Second)
		if len(r.fate(3)) != 0 {
			t.Fatalf("fate %v: the confirmation is older than the record's reading", r.fate(3))
		}
		r.mu.Lock()
		r.at = time.Now()
		r.mu.Unlock()
		time.Sleep(time.Second)
		if fmt.Sprint(r.fate(3)) != "[park]" || w.Next() != 4 {
			t.Errorf("fate %v, read up to %d", r.fate(3), w.Next())
		}
	})
}

// TestManyUnknownHoldUpNobody: records of a type that is no longer registered are parked as fast as they are read, not one a confirmation of the
// control log, which comes each 100 ms: what stands behind them in the partition is others'.
func TestManyUnknownHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		w := &account{kind: core.Topic(core.Default)}
		const many = 200
		values := make([][]byte, 0, many+1)
		for n := range many {
			values = append(values, record(spec{n: byte(n + 1), source: "nobody"}))
		}
		r.append(append(values, record(spec{n: many + 1, source: "crm"}))...)
		stop := read(t.Context(), r.reader().ReadPriority, w)
		defer func() { _ = stop() }()
		began := time.Now()
		for w.Next() <= many && time.Since(began) < time.Minute {
			time.Sleep(100 * time.Millisecond)
			r.mu.Lock()
			r.at = time.Now()
			r.mu.Unlock()
		}
		// The log of the test gives ten records a fetch.
		if took := time.Since(began); took > many/10*120*time.Millisecond {
			t.Errorf("somebody's job waited for %s behind %d records of nobody", took, many)
		}
	})
}

// TestNothingIsForgottenOrDoneTwice: generations end at any moment and copies fail at any record; reading goes on where the window says. In the
// end every record has exactly one fate.
func TestNothingIsForgottenOrDoneTwice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRooms()
			w := &account{kind: core.Topic(core.Default)}
			n := rapid.IntRange(1, 60).Draw(rt, "records")
			queued := 0
			for i := range n {
				switch source := rapid.SampledFrom([]string{"crm", "held", "held", ""}).Draw(rt, "source"); source {
				case "":
					r.append([]byte("no job"))
				default:
					if source == "crm" {
						queued++
					}
					r.append(record(spec{n: byte(i), source: source}))
				}
			}
			broken := errors.New("broken")
			for range rapid.IntRange(0, 5).Draw(rt, "generations") {
				at := int64(rapid.IntRange(0, n).Draw(rt, "fails at"))
				r.mu.Lock()
				r.failing = func(offset int64) error {
					if offset == at {
						return broken
					}
					return nil
				}
				r.mu.Unlock()
				stop := read(t.Context(), r.reader().ReadPriority, w)
				if rapid.Bool().Draw(rt, "wait") {
					synctest.Wait()
				}
				if err := stop(); err != nil && !errors.Is(err, broken) {
					rt.Fatal(err)
				}
			}
			r.mu.Lock()
			r.failing = nil
			r.mu.Unlock()
			stop := read(t.Context(), r.reader().ReadPriority, w)
			time.Sleep(time.Minute)
			if err := stop(); err != nil {
				rt.Fatal(err)
			}
			none := 0
			for offset := range n {
				switch fates := r.fate(int64(offset)); len(fates) {
				case 0:
					none++
				case 1:
				default:
					rt.Fatalf("record %d has the fates %v", offset, fates)
				}
			}
			if none != queued {
				rt.Fatalf("%d records without a fate, %d were queued", none, queued)
			}
			if w.Next() != int64(n) {
				rt.Fatalf("read up to %d of %d", w.Next(), n)
			}
		})
	})
}

// TestLaneIsReadAsFarAsAsked: a lane gives as many jobs as the engine asked for, by number and bytes, but always one; and no more (H11, H17).
func TestLaneIsReadAsFarAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		r.lanes["crm"] = 0
		w := &account{kind: core.TopicSpill}
		for n := range byte(50) {
			r.append(record(spec{n: n, source: "crm"}))
		}
		size := r.log[0].Size()
		reader := r.reader()
		stop := read(t.Context(), reader.ReadLane, w)
		defer func() { _ = stop() }()
		want := int64(0)
		for i, ask := range []struct{ jobs, bytes, get int }{{0, 1 << 20, 0}, {7, 1 << 20, 7}, {15, 1 << 20, 15}, {10, 3*size + 1, 3}, {10, 1, 1}, {0, 0, 0}, {10, 1 << 20, 10}} {
			reader.Read([]core.LaneRead{{Source: "crm", Type: "tag", N: int32(ask.jobs), Bytes: ask.bytes}})
			time.Sleep(2 * time.Second)
			want += int64(ask.get)
			reader.Read([]core.LaneRead{{Source: "crm", Type: "tag"}}) // the engine has enough
			if w.Next() != want {
				t.Fatalf("step %d: read up to %d, want %d", i, w.Next(), want)
			}
		}
	})
}
