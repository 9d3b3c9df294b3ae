package laws

import (
	"go/ast"
	"testing"
)

// A law that matches nothing holds nothing.
func TestFoldersCoverWhatLiesBelowThem(t *testing.T) {
	for dir, want := range map[string]bool{
		"services/scheduler/internal/core":      true,
		"services/scheduler/internal/core/lane": true,
		"services/scheduler/internal/api":       false,
		"services/scheduler":                    false,
		"pkg/offsets":                           true,
		"pkg/offsetsx":                          false,
	} {
		if got := (source{dir: dir}).in(cores...); got != want {
			t.Errorf("%s is core: %v, want %v", dir, got, want)
		}
	}
	covered := make(map[string]bool)
	for _, s := range product(t) {
		for _, core := range cores {
			covered[core] = covered[core] || s.in(core)
		}
	}
	for _, core := range cores {
		if !covered[core] {
			t.Errorf("no file lies in %s: the law of the pure core holds nothing", core)
		}
	}
}

func TestUsesAreSeen(t *testing.T) {
	for _, s := range product(t) {
		if s.path != "cmd/spillway/main.go" {
			continue
		}
		seen := false
		s.uses(func(pkg, name string, _ ast.Node) { seen = seen || pkg == "os" && name == "Exit" })
		if !seen {
			t.Error("os.Exit in main was not seen")
		}
		return
	}
	t.Error("cmd/spillway/main.go was not found")
}
