package publish

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
)

// reason is what the audit says of sources that local mode registers.
const reason = "local mode: enqueued by an unknown name"

// Automation is the Registrar that asks the automation service.
type Automation struct {
	admin automationv1.SourceAdminServiceClient
}

// NewAutomation returns a Registrar over a connection whose credential has role admin.
func NewAutomation(conn grpc.ClientConnInterface) *Automation {
	return &Automation{automationv1.NewSourceAdminServiceClient(conn)}
}

// Register implements Registrar.
func (a *Automation) Register(ctx context.Context, source *automationv1.Source) error {
	if _, err := a.admin.RegisterSource(ctx, &automationv1.RegisterSourceRequest{Source: source, Reason: reason}); err != nil {
		return fmt.Errorf("register %s: %w", source.GetName(), err)
	}
	return nil
}

// Extend implements Registrar.
func (a *Automation) Extend(ctx context.Context, name string, types []string, etag string) error {
	_, err := a.admin.UpdateSource(ctx, &automationv1.UpdateSourceRequest{
		Source: &automationv1.Source{Name: name, Types: types}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"types"}}, Etag: etag, Reason: reason,
	})
	if err != nil {
		return fmt.Errorf("extend %s: %w", name, err)
	}
	return nil
}
