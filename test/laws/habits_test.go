package laws

import (
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// commandsOnly are names that only commands may use.
var commandsOnly = []struct {
	pkg    string
	names  []string // nil: all
	reason string
}{
	{"os", []string{"Exit"}, "only a command decides that the process ends"},
	{"log", []string{"Fatal", "Fatalf", "Fatalln", "SetOutput", "SetFlags"}, "only a command decides that the process ends"},
	{"os/signal", nil, "signals belong to the process, not to a part of it"},
	{"flag", nil, "only commands parse flags"},
	{"log/slog", []string{"SetDefault", "SetLogLoggerLevel"}, "a log comes through Deps"},
	{"go.opentelemetry.io/otel", []string{"SetTracerProvider", "SetMeterProvider", "SetTextMapPropagator", "SetErrorHandler", "SetLogger"}, "telemetry comes through Deps"},
	{"runtime/debug", []string{"SetGCPercent", "SetMemoryLimit", "SetMaxThreads"}, "limits belong to the process"},
	{"runtime", []string{"GOMAXPROCS"}, "limits belong to the process"},
}

func TestOnlyCommandsOwnTheProcess(t *testing.T) {
	for _, s := range product(t) {
		if s.in("cmd") {
			continue
		}
		s.uses(func(pkg, name string, at ast.Node) {
			for _, rule := range commandsOnly {
				if pkg == rule.pkg && (rule.names == nil || slices.Contains(rule.names, name)) {
					t.Errorf("%s uses %s.%s: %s", s.position(at), pkg, name, rule.reason)
				}
			}
		})
	}
}

func TestStatusCodesHaveOnePlacePerService(t *testing.T) {
	for _, s := range product(t) {
		if !s.in("services") || strings.HasSuffix(s.path, "/internal/api/status.go") {
			continue
		}
		for _, p := range s.imports {
			if p == "google.golang.org/grpc/codes" || p == "google.golang.org/grpc/status" {
				t.Errorf("%s imports %s: what a refusal looks like outside is decided in internal/api/status.go", s.path, p)
			}
		}
	}
}

// silent are package names that say nothing about what is in the package.
var silent = []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "shared", "types", "models"}

func TestPackagesAreNamedAfterWhatTheyDo(t *testing.T) {
	for _, s := range tree(t) {
		if slices.Contains(silent, path.Base(s.dir)) || slices.Contains(silent, s.file.Name.Name) {
			t.Errorf("%s: package %s", s.path, s.file.Name.Name)
		}
	}
}

const (
	warnLines = 400
	maxLines  = 700
	maxFiles  = 12 // tests not counted
)

func TestSizes(t *testing.T) {
	count := make(map[string]int)
	for _, s := range tree(t) {
		if !s.test {
			count[s.dir]++
		}
		switch {
		case s.lines > maxLines:
			t.Errorf("%s has %d lines, at most %d: it does more than one thing", s.path, s.lines, maxLines)
		case s.lines > warnLines:
			t.Logf("%s has %d lines; from %d on, look whether it does two things", s.path, s.lines, warnLines)
		}
	}
	for dir, n := range count {
		if n > maxFiles {
			t.Errorf("%s has %d files, at most %d: nobody holds more in mind", dir, n, maxFiles)
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, s := range product(t) {
		if s.file.Name.Name == "main" {
			continue
		}
		for _, decl := range s.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil {
					t.Errorf("%s: %s has no doc comment", s.position(d), d.Name.Name)
				}
			case *ast.GenDecl:
				documentSpecs(t, s, d)
			}
		}
	}
}

// documentSpecs looks at each name of a group. A comment covers the lines right
// below it, too.
func documentSpecs(t *testing.T, s source, d *ast.GenDecl) {
	t.Helper()
	line := func(p token.Pos) int { return files().Position(p).Line }
	covered, last := d.Doc != nil, 0
	for _, spec := range d.Specs {
		var names []*ast.Ident
		own := d.Doc != nil
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			names, own = []*ast.Ident{spec.Name}, own || spec.Doc != nil || spec.Comment != nil
		case *ast.ValueSpec:
			names, own = spec.Names, own || spec.Doc != nil || spec.Comment != nil
		}
		covered = own || covered && line(spec.Pos()) == last+1
		last = line(spec.End())
		for _, name := range names {
			if name.IsExported() && !covered {
				t.Errorf("%s: %s has no doc comment", s.position(spec), name.Name)
			}
		}
	}
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.Ident:
			return e.IsExported()
		default:
			return false
		}
	}
}

func TestPackagesHaveADocComment(t *testing.T) {
	documented, seen := make(map[string]bool), make(map[string]string)
	for _, s := range product(t) {
		seen[s.dir] = s.path
		documented[s.dir] = documented[s.dir] || s.file.Doc != nil
	}
	for dir, file := range seen {
		if !documented[dir] {
			t.Errorf("%s: package %s has no doc comment", file, dir)
		}
	}
}

var (
	goLine      = regexp.MustCompile(`(?m)^go (\S+)$`)
	requireLine = regexp.MustCompile(`(?m)^\s*(?:require )?(\S+\.\S+/\S+) (v\S+)`)
)

func TestModulesAgree(t *testing.T) {
	top := root(t)
	text := func(name string) string {
		b, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	main := text("go.mod")
	if strings.Contains(main, "\nreplace") {
		t.Error("go.mod has a replace: `go install …@latest` would not work")
	}
	versions := make(map[string]string)
	for _, m := range requireLine.FindAllStringSubmatch(main, -1) {
		versions[m[1]] = m[2]
	}
	work := text("go.work")
	line := goLine.FindStringSubmatch(main)[1]
	if got := goLine.FindStringSubmatch(work); got == nil || got[1] != line {
		t.Errorf("go.work has go line %v, go.mod %s", got, line)
	}
	for _, dir := range regexp.MustCompile(`(?m)^\s*(?:use )?\./(\S+)$`).FindAllStringSubmatch(work, -1) {
		name := dir[1] + "/go.mod"
		mod := text(name)
		if got := goLine.FindStringSubmatch(mod); got == nil || got[1] != line {
			t.Errorf("%s has go line %v, the root has %s", name, got, line)
		}
		for _, m := range requireLine.FindAllStringSubmatch(mod, -1) {
			if v, shared := versions[m[1]]; shared && v != m[2] {
				t.Errorf("%s requires %s %s, the root %s", name, m[1], m[2], v)
			}
		}
	}
}
