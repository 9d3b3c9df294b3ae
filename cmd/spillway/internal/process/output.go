package process

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
)

// maxLine is how much of a child's line is shown; more would be a memory dump.
const maxLine = 64 << 10

// nameWidth fits the longest name ("automation", "scheduler-7").
const nameWidth = 11

// Output writes the lines of several children into one stream, each behind the
// name of the child that wrote it. Safe for concurrent use.
type Output struct {
	mu     sync.Mutex
	w      io.Writer
	colour bool
}

// NewOutput writes to w. With colour, names are coloured for a terminal.
func NewOutput(w io.Writer, colour bool) *Output { return &Output{w: w, colour: colour} }

// Write writes a line of the parent itself, unchanged.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(b)
}

// Copy passes on what r says, line by line, until it ends.
func (o *Output) Copy(name string, r io.Reader) {
	prefix := fmt.Sprintf("%-*s | ", nameWidth, name)
	if o.colour {
		prefix = fmt.Sprintf("\x1b[%dm%-*s |\x1b[0m ", colourOf(name), nameWidth, name)
	}
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			o.mu.Lock()
			io.WriteString(o.w, prefix)
			o.w.Write(bytes.TrimRight(line, "\n"))
			io.WriteString(o.w, "\n")
			o.mu.Unlock()
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

// colourOf gives each name one of the six terminal colours that are readable
// on light and dark.
func colourOf(name string) int {
	sum := 0
	for _, c := range name {
		sum += int(c)
	}
	return 31 + sum%6
}

// Terminal reports whether a file is a terminal: a character device, other
// than /dev/null.
func Terminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
