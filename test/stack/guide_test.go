package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const guide = "docs/guides/compose.md"

// TestDocumentedCommands: what the guide, the README and compose.yaml itself tell to type is understood.
func TestDocumentedCommands(t *testing.T) {
	line := regexp.MustCompile("(?m)(?:^|&& )(?:#   )?docker compose (?:--progress quiet )?(?:run --rm cli|run --rm tokens) ?([^\n#&]*?)(?:\\s{2,}.*)?$")
	found := 0
	for _, name := range []string{"docs/guides/compose.md", "README.md", "compose.yaml"} {
		for _, m := range line.FindAllStringSubmatch(read(t, name), -1) {
			if command := words(m[1]); len(command) > 0 {
				found++
				known(t, name, command)
			}
		}
	}
	if found < 4 {
		t.Errorf("%d commands were found: this test sees nothing", found)
	}
}

// words splits a command line with single quotes.
func words(line string) []string {
	var list []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			list = append(list, part)
		} else {
			list = append(list, strings.Fields(part)...)
		}
	}
	return list
}

// block is the first code block of the guide that begins with a text.
func block(t *testing.T, begin string) string {
	t.Helper()
	for _, b := range regexp.MustCompile("(?s)```[a-z]+\n(.*?)```").FindAllStringSubmatch(read(t, guide), -1) {
		if strings.HasPrefix(b[1], begin) {
			return b[1]
		}
	}
	t.Fatalf("%s has no block that begins with %q", guide, begin)
	return ""
}

// file writes a compose file of the guide beside nothing else.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestWorkerOfTheGuide: the file that users copy finds the volumes and the socket that compose.yaml has.
func TestWorkerOfTheGuide(t *testing.T) {
	project, own := load(t, file(t, block(t, "services:\n  tagger:"))), composeFile(t)
	worker := project.Services["tagger"]
	targets := map[string]string{} // target by our volume
	for _, v := range worker.Volumes {
		volume, ours := strings.CutPrefix(project.Volumes[v.Source].Name, own.Name+"_")
		if _, known := own.Volumes[volume]; !ours || !known || !bool(project.Volumes[v.Source].External) {
			t.Errorf("it mounts %s, which compose.yaml does not make", project.Volumes[v.Source].Name)
		}
		if !v.ReadOnly {
			t.Errorf("it may write to %s", v.Source)
		}
		targets[volume] = v.Target
	}
	if got, want := value(worker, "SPILLWAY_SCHEDULER_ADDRESS"), strings.Replace(value(own.Services["scheduler"], "SPILLWAY_LISTEN"), "/run/spillway/scheduler", targets["socket-scheduler"], 1); got != want {
		t.Errorf("it looks for the scheduler at %q, which is at %q", got, want)
	}
	if got, want := value(worker, "SPILLWAY_TOKEN_FILE"), targets["token-worker"]+"/token"; got != want {
		t.Errorf("its token is %q, want %q", got, want)
	}
	if got := strings.Join(own.Services["tokens"].Command, " "); !strings.Contains(got, "--token=worker:worker:/var/lib/spillway/tokens/worker/token") {
		t.Errorf("no token of a worker is signed: %s", got)
	}
	if worker.User != own.Services["tokens"].User {
		t.Errorf("it runs as %s and cannot read the token of %s", worker.User, own.Services["tokens"].User)
	}
}

// TestOverrideOfTheGuide: compose.yaml with it breaks no rule.
func TestOverrideOfTheGuide(t *testing.T) {
	project := load(t, "../../compose.yaml", file(t, block(t, "services:\n  enqueue:")))
	if value(project.Services["enqueue"], "OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		t.Error("the override has no effect")
	}
	for _, breach := range breaches(project) {
		t.Error(breach)
	}
}

// TestTableOfTheGuide: the containers with their memory.
func TestTableOfTheGuide(t *testing.T) {
	text := read(t, guide)
	for _, s := range composeFile(t).Services {
		memory := fmt.Sprintf("%d MiB", s.MemLimit/mib)
		if s.MemLimit%(1024*mib) == 0 {
			memory = fmt.Sprintf("%d GiB", s.MemLimit/(1024*mib))
		}
		if row := regexp.MustCompile("(?m)^\\| `" + s.Name + "` \\|.*$").FindString(text); !strings.Contains(row, "| "+memory) {
			t.Errorf("%s has %s; the guide says %q", s.Name, memory, row)
		}
	}
}
