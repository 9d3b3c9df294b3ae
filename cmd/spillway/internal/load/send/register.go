package send

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
)

const callTimeout = 10 * time.Second

// Register makes the flows sources with the default quota if they are none; by says who did.
func Register(ctx context.Context, conn grpc.ClientConnInterface, by string, flows []plan.Flow) error {
	sources, admin := automationv1.NewSourceServiceClient(conn), automationv1.NewSourceAdminServiceClient(conn)
	for _, f := range flows {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		got, err := sources.GetSource(call, &automationv1.GetSourceRequest{Name: f.Name}, grpc.WaitForReady(true))
		if err == nil {
			if !slices.Contains(got.GetSource().GetTypes(), f.Type) {
				return fmt.Errorf("source %s exists and does not declare type %s", f.Name, f.Type)
			}
			continue
		}
		if status.Code(err) == codes.NotFound {
			_, err = admin.RegisterSource(call, &automationv1.RegisterSourceRequest{Reason: by, Source: &automationv1.Source{
				Name: f.Name, Types: []string{f.Type}, Owner: by, Principals: []string{"*"},
			}})
		}
		if err != nil {
			return fmt.Errorf("register source %s: %w", f.Name, err)
		}
	}
	return nil
}

// Types returns the job types of flows, each once.
func Types(flows []plan.Flow) []string {
	var types []string
	for _, f := range flows {
		if !slices.Contains(types, f.Type) {
			types = append(types, f.Type)
		}
	}
	return types
}

// Addresses returns the addresses of all enqueue replicas.
func Addresses(f readyfile.File) []string {
	addresses := []string{f.Endpoints.Enqueue}
	for _, replica := range f.Replicas {
		if strings.HasPrefix(replica.Name, "enqueue") && !slices.Contains(addresses, replica.GRPC) {
			addresses = append(addresses, replica.GRPC)
		}
	}
	return addresses
}
