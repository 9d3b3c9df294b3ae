// Package laws holds the house to its rules: each is a table of rule and
// reason, and what breaks it is named by file and line. It parses the tree
// without building it, so it is fast and sees code for every platform.
package laws

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is the product's import path.
const module = "github.com/spillway/spillway"

// source is one hand-written Go file.
type source struct {
	path    string // from the root, with slashes
	dir     string
	test    bool
	lines   int
	file    *ast.File
	imports map[string]string // import path by the name it has in the file
}

// position is file:line of a node.
func (s source) position(n ast.Node) string {
	return s.path + ":" + strconv.Itoa(files().Position(n.Pos()).Line)
}

// in reports whether the file lies below one of the folders.
func (s source) in(folders ...string) bool {
	for _, f := range folders {
		if ok, _ := path.Match(f, s.dir); ok || strings.HasPrefix(s.dir+"/", f+"/") {
			return true
		}
		// A pattern such as services/*/internal/core covers what lies below it.
		if depth := strings.Count(f, "/"); strings.Contains(f, "*") {
			parts := strings.Split(s.dir, "/")
			if len(parts) > depth {
				if ok, _ := path.Match(f, strings.Join(parts[:depth+1], "/")); ok {
					return true
				}
			}
		}
	}
	return false
}

var files = sync.OnceValue(token.NewFileSet)

// root is the top of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("not the root of the repository: %v", err)
	}
	return dir
}

var parsed = sync.OnceValues(func() ([]source, error) {
	dir, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	var list []source
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if d.Name() == "testdata" || rel != "." && strings.HasPrefix(d.Name(), ".") || rel == "proto/gen" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		s, err := parse(p, rel)
		list = append(list, s)
		return err
	})
	return list, err
})

func parse(file, rel string) (source, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return source{}, err
	}
	s := source{
		path: rel, dir: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"),
		lines: strings.Count(string(text), "\n"), imports: make(map[string]string),
	}
	s.file, err = parser.ParseFile(files(), rel, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return source{}, err
	}
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return source{}, err
		}
		name := path.Base(p)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		// Two imports may have one base name only under different names.
		s.imports[name] = p
	}
	return s, nil
}

// tree returns every hand-written file of the repository.
func tree(t *testing.T) []source {
	t.Helper()
	list, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 50 {
		t.Fatalf("only %d files were found: nothing would be held to the laws", len(list))
	}
	return list
}

// product leaves out tests, and the modules that only developers need.
func product(t *testing.T) []source {
	var list []source
	for _, s := range tree(t) {
		if !s.test && !s.in("test", "tools", "bench") {
			list = append(list, s)
		}
	}
	return list
}

// standard reports whether an import path is of the standard library.
func standard(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	return !strings.Contains(first, ".")
}

// below reports whether an import path is one of the folders or below it; the
// folders are relative to the module.
func below(p string, folders ...string) bool {
	for _, f := range folders {
		if f = module + "/" + f; p == f || strings.HasPrefix(p, f+"/") {
			return true
		}
	}
	return false
}

// calls visits each use of a name of another package: pkg.Name.
func (s source) uses(visit func(pkg, name string, at ast.Node)) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok {
			if p := s.imports[x.Name]; p != "" {
				visit(p, sel.Sel.Name, sel)
			}
		}
		return true
	})
}
