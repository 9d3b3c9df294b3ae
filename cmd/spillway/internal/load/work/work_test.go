package work

import (
	"bytes"
	"testing"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
)

// diary is an Events that remembers.
type diary struct{ starts, ends []plan.Instruction }

func (l *diary) Started(in plan.Instruction, at time.Time)  { l.starts = append(l.starts, in) }
func (l *diary) Finished(in plan.Instruction, at time.Time) { l.ends = append(l.ends, in) }

func TestFramesOfWorkerProcesses(t *testing.T) {
	var pipe bytes.Buffer
	in := plan.Instruction{Seed: 1 << 52, Flow: 3, Seq: 70_000}
	at := time.Unix(1_700_000_000, 123_456_789)
	r := NewReporter(&pipe)
	r.Started(in, at)
	r.Finished(in, at)
	r.Started(in, at)
	cut := bytes.NewReader(pipe.Bytes()[:2*frameBytes+5]) // killed in the third write
	var got diary
	ReadFrames(cut, &got)
	if len(got.starts) != 1 || len(got.ends) != 1 || got.starts[0] != in || got.ends[0] != in {
		t.Errorf("read %+v", got)
	}
}
