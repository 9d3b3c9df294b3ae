package work

import (
	"bufio"
	"encoding/binary"
	"io"
	"log/slog"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
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

func appendFrame(b []byte, kind uint8, in plan.Instruction, at time.Time) []byte {
	b = append(b, kind, 0, 0, 0, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, in.Seed)
	b = binary.BigEndian.AppendUint32(b, in.Flow)
	b = binary.BigEndian.AppendUint32(b, in.Seq)
	return binary.BigEndian.AppendUint64(b, uint64(at.UnixNano()))
}

// Reporter is the Events of a worker process.
type Reporter struct{ w io.Writer }

// NewReporter reports to w, the standard output of a worker process.
func NewReporter(w io.Writer) Reporter { return Reporter{w} }

func (r Reporter) write(kind uint8, in plan.Instruction, at time.Time) {
	var b [frameBytes]byte
	if _, err := r.w.Write(appendFrame(b[:0], kind, in, at)); err != nil {
		// Nobody listens any more: the process is about to be stopped.
		slog.Debug("report lost", "error", err)
	}
}

// Started is Events.Started.
func (r Reporter) Started(in plan.Instruction, at time.Time) { r.write(frameStarted, in, at) }

// Finished is Events.Finished.
func (r Reporter) Finished(in plan.Instruction, at time.Time) { r.write(frameFinished, in, at) }

// ReadFrames passes on what a worker process reports until it ends.
func ReadFrames(r io.Reader, to Events) {
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
			to.Started(job, at)
		case frameFinished:
			to.Finished(job, at)
		}
	}
}
