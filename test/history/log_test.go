package history

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLogSurvivesItsWriter: what was written is there, in order of time over all
// files, and a line that was not finished is not.
func TestLogSurvivesItsWriter(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for i, path := range []string{a, b, a} {
		l, err := Create(path, filepath.Base(path))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Write(Event{Kind: Start, Key: string(rune('x' + i)), Token: &Token{1, 2, 3}}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(b, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"mono":1,"kind":"exec-`)
	f.Close()
	events, err := Read(a, b)
	if err != nil || len(events) != 3 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for i, want := range []string{"x", "y", "z"} {
		if e := events[i]; e.Key != want || e.Kind != Start || *e.Token != (Token{1, 2, 3}) || e.Mono == 0 || e.Wall == 0 {
			t.Errorf("event %d is %+v, want %s", i, e, want)
		}
	}
	if events[0].Proc != "a" || events[1].Proc != "b" {
		t.Errorf("processes %s, %s", events[0].Proc, events[1].Proc)
	}
}
