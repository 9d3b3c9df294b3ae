package product

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// scratch is where the binary lies; set by Main, before any test runs.
var scratch string

// Main runs a package's tests with a directory for the binary and removes it
// afterwards. Call it from TestMain: os.Exit(product.Main(m)).
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "spillway-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	scratch = dir
	defer os.RemoveAll(dir)
	return m.Run()
}

// binaryVariable names a binary to test instead of one built from this checkout,
// such as the one that is about to be released.
const binaryVariable = "SPILLWAY_TEST_BINARY"

var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(binaryVariable); path != "" {
		return filepath.Abs(path)
	}
	if scratch == "" {
		return "", errors.New("TestMain has to call product.Main")
	}
	// The binary is that of this checkout, wherever the test runs.
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("no source path")
	}
	binary := filepath.Join(scratch, "spillway")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/spillway")
	cmd.Dir = filepath.Join(filepath.Dir(file), "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return binary, nil
})

// Binary is the path of the product's binary. It is built at the first call.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatalf("build the product: %v", err)
	}
	return path
}

// Run runs a command of the binary to its end, at most for limit, and returns
// what it printed and its exit code.
func Run(t testing.TB, limit time.Duration, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(t), args...)
	dieWithUs(cmd, false)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), talk.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatalf("spillway %v: %v", args, err)
	}
	return out.String(), talk.String(), 0
}
