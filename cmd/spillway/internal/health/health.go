// Package health is `spillway health`: it asks a service's admin listener
// whether the service can do its work. Images without a shell have no other way
// to do that from inside the container.
package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
)

// maxAnswer bounds what is read: an answer has a line for each of a few checks.
const maxAnswer = 64 << 10

// adminVariable is the setting of the services that names their admin listener.
const adminVariable = "SPILLWAY_ADMIN_LISTEN"

// Command is `spillway health`.
func Command() *cobra.Command {
	var admin string
	var timeout time.Duration
	var live bool
	cmd := &cobra.Command{
		Use:   "health [--admin ADDRESS]",
		Short: "ask a service whether it is ready; exits 0 if it is, 6 if not",
		Long: `health asks the admin listener of one service for /readyz, prints its answer
(one JSON line a check) and exits 0 if the service can do its work, 6 if it
cannot or does not answer in time. It is the health check of containers.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case admin == "":
				return exit.Errorf(exit.Usage, "--admin or %s is required", adminVariable)
			case timeout <= 0:
				return exit.Errorf(exit.Usage, "--timeout: want more than 0")
			}
			path := "/readyz"
			if live {
				path = "/livez"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return ask(ctx, admin, path, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&admin, "admin", os.Getenv(adminVariable), "the admin listener: host:port, http://host:port or unix:PATH ("+adminVariable+")")
	f.BoolVar(&live, "live", false, "only ask whether the process answers (/livez)")
	f.DurationVar(&timeout, "timeout", 3*time.Second, "how long to wait for the answer")
	return cmd
}

// ask copies the answer to out. An answer other than 200 is ErrNotReady.
func ask(ctx context.Context, admin, path string, out io.Writer) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		// The address is the listener's own, whatever a proxy variable says.
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			if socket, isUnix := strings.CutPrefix(admin, "unix:"); isUnix {
				return d.DialContext(ctx, "unix", socket)
			}
			return d.DialContext(ctx, "tcp", strings.TrimSuffix(strings.TrimPrefix(admin, "http://"), "/"))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return exit.With(exit.Unavailable, fmt.Errorf("%s: %w", admin, err))
	}
	defer res.Body.Close()
	if _, err := io.Copy(out, io.LimitReader(res.Body, maxAnswer)); err != nil {
		return exit.With(exit.Unavailable, fmt.Errorf("%s: %w", admin, err))
	}
	if res.StatusCode != http.StatusOK {
		return exit.With(exit.Unavailable, fmt.Errorf("%s: %w: %s", admin, ErrNotReady, res.Status))
	}
	return nil
}

// ErrNotReady is returned when the service answers that it cannot do its work.
var ErrNotReady = errors.New("not ready")
