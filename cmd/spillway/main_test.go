package main

import (
	"io"
	"testing"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
)

// What is called wrongly exits with 2, as scripts rely on: also for want of a required flag.
func TestWrongUseExitsWithUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"foo"}, {"job"}, {"job", "enqueue"}, {"job", "enqueue", "--source", "s"}, {"source", "register", "s"},
		{"switch", "hold", "s"}, {"switch", "resume", "s"}, {"switch", "hold"}, {"source", "list", "--foo"},
		{"replay", "another"}, {"replay", "avochato-2020", "avochato-2020"}, {"replay", "avochato-2020", "--flood", "0s"}, {"replay", "avochato-2020", "-o", "xml"},
	} {
		cmd := root()
		cmd.SetArgs(args)
		cmd.SetOut(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); exit.Code(err) != exit.Usage {
			t.Errorf("%q: %v, exit %d", args, err, exit.Code(err))
		}
	}
}
