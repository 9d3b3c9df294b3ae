package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// root is the top of the repository.
const root = "../.."

// binary is the product, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "spillway-stack-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "spillway")
		build := exec.Command("go", "build", "-o", binary, "./cmd/spillway")
		build.Dir, build.Env = root, append(os.Environ(), "GOWORK=off")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the product: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// run is the product with exactly this environment.
func run(t *testing.T, env []string, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir()}, env...)
	b, err := cmd.CombinedOutput()
	if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) {
		t.Fatalf("%v: %v", args, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// TestServicesKnowTheirSettings: a service refuses a SPILLWAY_ variable that it does not know, and a value that it cannot use, before it looks
// at its keys. Here there are no keys, so that this is all it can complain of.
func TestServicesKnowTheirSettings(t *testing.T) {
	const usage = 2
	project := composeFile(t)
	for _, name := range servers {
		s := project.Services[name]
		env := environment(s)
		args := []string(s.Command)
		out, code := run(t, env, args...)
		if code != usage || !strings.Contains(out, "MAC key: ") {
			t.Errorf("%s: exit %d, want a complaint of the absent MAC key and nothing else:\n%s", name, code, out)
		}
		// The same with a setting too many shows that this would be seen.
		out, code = run(t, append(env, "SPILLWAY_SESSION=6s"), args...)
		if code != usage || !strings.Contains(out, "SPILLWAY_SESSION is no setting") {
			t.Errorf("%s with an unknown setting: exit %d:\n%s", name, code, out)
		}
	}
}

func environment(s types.ServiceConfig) []string {
	var env []string
	for name, v := range s.Environment {
		if v != nil {
			env = append(env, name+"="+*v)
		}
	}
	return env
}

// TestCommandsAreKnown: verbs and flags of all containers.
func TestCommandsAreKnown(t *testing.T) {
	project := composeFile(t)
	for _, name := range slices.Concat(servers, oneShots) {
		known(t, name, project.Services[name].Command)
	}
	if out, code := run(t, nil, "keys", "make", "--signing-directory", "x", "--help"); code == 0 {
		t.Errorf("an unknown flag is accepted, so this test shows nothing:\n%s", out)
	}
}

// known asks for help with a command line, which is refused if a verb or flag of it is unknown.
func known(t *testing.T, where string, command []string) {
	t.Helper()
	out, code := run(t, nil, append(slices.Clone(command), "--help")...)
	if code != 0 || !strings.Contains(out, "Usage:") || !strings.Contains(out, "spillway "+command[0]) {
		t.Errorf("%s: spillway %s: exit %d:\n%s", where, strings.Join(command, " "), code, out)
	}
}

// TestHealthCheck: the command that all health checks run, with the setting that it reads.
func TestHealthCheck(t *testing.T) {
	known(t, "health check", []string{"health"})
	if out, code := run(t, []string{"SPILLWAY_ADMIN_LISTEN=127.0.0.1:1"}, "health"); code != 6 {
		t.Errorf("nobody listens: exit %d:\n%s", code, out)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// instruction is one line of a Dockerfile.
type instruction struct{ name, args string }

func dockerfile(t *testing.T) []instruction {
	t.Helper()
	text := strings.ReplaceAll(read(t, "Dockerfile"), "\\\n", " ")
	var list []instruction
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			if strings.HasPrefix(strings.ReplaceAll(line, " ", ""), "#syntax=") {
				t.Error("a syntax line: the frontend would be fetched from a registry")
			}
			continue
		}
		name, args, _ := strings.Cut(line, " ")
		list = append(list, instruction{strings.ToUpper(name), strings.Join(strings.Fields(args), " ")})
	}
	return list
}

func TestDockerfile(t *testing.T) {
	var froms, users, entrypoints []string
	var build string
	for _, i := range dockerfile(t) {
		switch i.name {
		case "FROM":
			froms = append(froms, i.args)
			users, entrypoints = nil, nil // of the last stage
		case "USER":
			users = append(users, i.args)
		case "ENTRYPOINT":
			entrypoints = append(entrypoints, i.args)
		case "ADD":
			t.Errorf("ADD %s: it fetches and unpacks, COPY does neither", i.args)
		case "RUN":
			if strings.Contains(i.args, "go build") {
				build = i.args
			}
		}
	}
	if want := []string{"golang:1.26-bookworm AS build", "gcr.io/distroless/static-debian12:nonroot"}; !slices.Equal(froms, want) {
		t.Errorf("stages %q, want %q", froms, want)
	}
	if want := []string{"65532:65532"}; !slices.Equal(users, want) {
		t.Errorf("the image runs as %q, want a number that is not root: %q", users, want)
	}
	if want := []string{`["/spillway"]`}; !slices.Equal(entrypoints, want) {
		t.Errorf("entrypoint %q, want %q", entrypoints, want)
	}
	for _, want := range []string{"CGO_ENABLED=0", "GOWORK=off", "-mod=readonly", "-trimpath", "-X main.release=${VERSION}", "./cmd/spillway"} {
		if !strings.Contains(build, want) {
			t.Errorf("%s is not in: %s", want, build)
		}
	}
	line := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))
	if !strings.HasPrefix(froms[0], "golang:"+line[1]+"-") {
		t.Errorf("built with %s, go.mod says %s", froms[0], line[1])
	}
}

// TestReleaseIsShown: the name that the linker sets is the one that `spillway version` prints.
func TestReleaseIsShown(t *testing.T) {
	if out, code := run(t, nil, "version"); code != 0 || !strings.HasPrefix(out, "spillway ") {
		t.Fatalf("exit %d: %s", code, out)
	}
	name := filepath.Join(t.TempDir(), "spillway")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X main.release=v7.8.9", "-o", name, "./cmd/spillway")
	build.Dir, build.Env = root, append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), name, "version").Output(); err != nil || !bytes.HasPrefix(out, []byte("spillway v7.8.9 go")) {
		t.Errorf("%q, %v", out, err)
	}
}

// TestMountPoints: a named volume takes owner and mode from the folder in the image, which must be there and belong to the image's user. Else
// the volume belongs to root, and nobody here is root.
func TestMountPoints(t *testing.T) {
	var made, given []string
	for _, i := range dockerfile(t) {
		fields := strings.Fields(i.args)
		switch {
		case i.name == "RUN" && slices.Contains(fields, "mkdir"):
			for _, f := range fields {
				if dir, ok := strings.CutPrefix(f, "/out"); ok {
					made = append(made, dir)
				}
			}
		case i.name == "COPY" && slices.Contains(fields, "--chown=65532:65532"):
			given = append(given, fields[len(fields)-1])
		}
	}
	seen := 0
	for _, s := range composeFile(t).Services {
		if !slices.Contains(ours, s.Name) {
			continue
		}
		for _, v := range s.Volumes {
			seen++
			if !slices.Contains(made, v.Target) {
				t.Errorf("%s mounts %s on %s, which the image does not have: %v", s.Name, v.Source, v.Target, made)
			}
			if !slices.ContainsFunc(given, func(dir string) bool { return v.Target == dir || strings.HasPrefix(v.Target, dir+"/") }) {
				t.Errorf("%s mounts %s on %s, which belongs to root", s.Name, v.Source, v.Target)
			}
		}
	}
	if seen == 0 {
		t.Error("no volume was looked at")
	}
}

// TestContext: .dockerignore names what gets in, so no key or log of a work tree can; and all that the binary is made of does.
func TestContext(t *testing.T) {
	var allowed []string
	first := ""
	for line := range strings.Lines(read(t, ".dockerignore")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if first == "" {
			first = line
		}
		if name, ok := strings.CutPrefix(line, "!"); ok {
			allowed = append(allowed, name)
		}
	}
	if first != "*" {
		t.Errorf("it begins with %q, not with *: what is not named gets in", first)
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{.ImportPath}}{{end}}{{end}}", "./cmd/spillway")
	list.Dir, list.Env = root, append(os.Environ(), "GOWORK=off")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	if len(packages) < 20 {
		t.Fatalf("the binary is made of %v", packages)
	}
	for _, p := range packages {
		top, _, _ := strings.Cut(strings.TrimPrefix(p, "github.com/spillway/spillway/"), "/")
		if !slices.Contains(allowed, top) {
			t.Errorf("%s is needed and %s is not let in", p, path.Base(top))
		}
	}
}
