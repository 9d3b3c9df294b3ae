package health

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := Command()
	var out strings.Builder
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func answer(code int, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/livez" {
			return
		}
		w.WriteHeader(code)
		w.Write([]byte(text))
	})
}

func TestAnswerDecidesTheExitCode(t *testing.T) {
	good := httptest.NewServer(answer(200, `{"name":"group","ok":true}`))
	defer good.Close()
	bad := httptest.NewServer(answer(503, `{"name":"group","ok":false,"detail":"no generation"}`))
	defer bad.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"ready", []string{"--admin", strings.TrimPrefix(good.URL, "http://")}, exit.OK, `"ok":true`},
		{"as dev.json has it", []string{"--admin", good.URL}, exit.OK, `"ok":true`},
		{"not ready", []string{"--admin", bad.URL}, exit.Unavailable, "no generation"},
		{"alive, not ready", []string{"--live", "--admin", bad.URL}, exit.OK, ""},
		{"nobody there", []string{"--admin", gone.Addr().String()}, exit.Unavailable, ""},
		{"no address", []string{"--admin", ""}, exit.Usage, ""},
	} {
		out, err := run(t, c.args...)
		if exit.Code(err) != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: %v, %q", c.name, err, out)
		}
	}
	if _, err := run(t, "--admin", bad.URL); !errors.Is(err, ErrNotReady) {
		t.Errorf("%v", err)
	}
}

// TestNoAnswerInTime: a service that hangs is unhealthy, and its check ends.
func TestNoAnswerInTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // accepts nobody
	began := time.Now()
	if _, err := run(t, "--admin", l.Addr().String(), "--timeout", "50ms"); exit.Code(err) != exit.Unavailable {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestAdminOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer(200, "ready")}
	go server.Serve(l)
	defer server.Close()
	if out, err := run(t, "--admin", "unix:"+path); err != nil || out != "ready" {
		t.Errorf("%q, %v", out, err)
	}
}
