package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/spillway/spillway/pkg/worker"
)

// A module that is not part of ours, and does not see our workspace, builds a worker from what it can import.
func TestBuildsAlone(t *testing.T) {
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(t.TempDir(), "outside"), ".")
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestHandler(t *testing.T) {
	if err := tag(context.Background(), &worker.Job{ID: "1", Payload: []byte("x")}); err != nil {
		t.Error(err)
	}
}
