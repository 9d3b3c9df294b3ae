// Package api translates between automation's RPCs and its core: nothing is decided here.
package api

import (
	"context"
	"encoding/base64"
	"strings"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	"github.com/spillway/spillway/services/automation/internal/core"
)

// Registry is the room that acts. Its errors are *core.Refusal or a context's.
type Registry interface {
	// Source returns a source.
	Source(name string) (core.Source, error)
	// Sources returns up to limit sources whose names have the prefix, by name, the first after a name.
	Sources(prefix, after string, limit int) ([]core.Source, error)
	// Register registers a source.
	Register(ctx context.Context, want core.Source, req core.Request) (core.Source, error)
	// Update changes a source by edit.
	Update(ctx context.Context, name, etag string, edit func(core.Source) (core.Source, error), req core.Request) (core.Source, error)
	// Delete removes a source.
	Delete(ctx context.Context, name, etag string, req core.Request) error
	// Switches returns up to limit switches in force, by scope, the first after a scope.
	Switches(prefix string, after core.Scope, limit int) ([]core.Switch, error)
	// Throw carries out an order and proves it.
	Throw(ctx context.Context, o core.Order) (core.Thrown, error)
}

// Handler serves the three services.
type Handler struct {
	automationv1.UnimplementedSourceServiceServer
	automationv1.UnimplementedSourceAdminServiceServer
	automationv1.UnimplementedSwitchServiceServer
	registry Registry
}

// New returns a handler that hands everything to registry.
func New(registry Registry) *Handler { return &Handler{registry: registry} }

// Register registers the services with a gRPC server.
func (h *Handler) Register(s grpc.ServiceRegistrar) {
	automationv1.RegisterSourceServiceServer(s, h)
	automationv1.RegisterSourceAdminServiceServer(s, h)
	automationv1.RegisterSwitchServiceServer(s, h)
}

// Services are the names under which health is told.
func Services() []string {
	return []string{
		automationv1.SourceService_ServiceDesc.ServiceName, automationv1.SourceAdminService_ServiceDesc.ServiceName,
		automationv1.SwitchService_ServiceDesc.ServiceName,
	}
}

// Roles is the role that each method needs: read changes nothing, operate throws switches, admin changes sources and quotas.
func Roles() map[string]rpc.Role {
	return map[string]rpc.Role{
		automationv1.SourceService_GetSource_FullMethodName:           rpc.RoleRead,
		automationv1.SourceService_ListSources_FullMethodName:         rpc.RoleRead,
		automationv1.SourceAdminService_RegisterSource_FullMethodName: rpc.RoleAdmin,
		automationv1.SourceAdminService_UpdateSource_FullMethodName:   rpc.RoleAdmin,
		automationv1.SourceAdminService_DeleteSource_FullMethodName:   rpc.RoleAdmin,
		automationv1.SwitchService_Hold_FullMethodName:                rpc.RoleOperate,
		automationv1.SwitchService_Resume_FullMethodName:              rpc.RoleOperate,
		automationv1.SwitchService_ListSwitches_FullMethodName:        rpc.RoleRead,
	}
}

// defaultPage is how many items a page has when the caller does not say; the contract's limit is 1,000.
const defaultPage = 100

func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPage
	}
	return int(asked)
}

// GetSource implements SourceService.
func (h *Handler) GetSource(_ context.Context, req *automationv1.GetSourceRequest) (*automationv1.GetSourceResponse, error) {
	s, err := h.registry.Source(req.GetName())
	if err != nil {
		return nil, failure(err)
	}
	return &automationv1.GetSourceResponse{Source: ToSource(s)}, nil
}

// ListSources implements SourceService. A page token is the last name of the page before.
func (h *Handler) ListSources(_ context.Context, req *automationv1.ListSourcesRequest) (*automationv1.ListSourcesResponse, error) {
	after, ok := openToken(req.GetPageToken(), "s")
	if !ok {
		return nil, failure(core.Bad("page_token", "is not one that ListSources gave"))
	}
	size := pageSize(req.GetPageSize())
	list, err := h.registry.Sources(req.GetFilter(), strings.Join(after, ""), size+1)
	if err != nil {
		return nil, failure(err)
	}
	res := &automationv1.ListSourcesResponse{}
	if len(list) > size {
		list = list[:size]
		res.NextPageToken = token("s", list[size-1].Name)
	}
	for _, s := range list {
		res.Sources = append(res.Sources, ToSource(s))
	}
	return res, nil
}

// RegisterSource implements SourceAdminService.
func (h *Handler) RegisterSource(ctx context.Context, req *automationv1.RegisterSourceRequest) (*automationv1.RegisterSourceResponse, error) {
	s, err := h.registry.Register(ctx, FromSource(req.GetSource()), core.Request{
		ID: req.GetRequestId(), Actor: actor(ctx), Reason: req.GetReason(), ValidateOnly: req.GetValidateOnly(),
	})
	if err != nil {
		return nil, failure(err)
	}
	return &automationv1.RegisterSourceResponse{Source: ToSource(s)}, nil
}

// UpdateSource implements SourceAdminService.
func (h *Handler) UpdateSource(ctx context.Context, req *automationv1.UpdateSourceRequest) (*automationv1.UpdateSourceResponse, error) {
	if req.GetSource() == nil {
		return nil, failure(core.Bad("source", "is required"))
	}
	change := func(have core.Source) (core.Source, error) {
		next, wrong := edit(have, req.GetSource(), req.GetUpdateMask().GetPaths())
		if len(wrong) > 0 {
			return core.Source{}, &core.Refusal{Reason: core.Invalid, Message: "the update mask is invalid", Violations: wrong}
		}
		return next, nil
	}
	s, err := h.registry.Update(ctx, req.GetSource().GetName(), req.GetEtag(), change, core.Request{
		ID: req.GetRequestId(), Actor: actor(ctx), Reason: req.GetReason(), ValidateOnly: req.GetValidateOnly(),
	})
	if err != nil {
		return nil, failure(err)
	}
	return &automationv1.UpdateSourceResponse{Source: ToSource(s)}, nil
}

// DeleteSource implements SourceAdminService.
func (h *Handler) DeleteSource(ctx context.Context, req *automationv1.DeleteSourceRequest) (*automationv1.DeleteSourceResponse, error) {
	err := h.registry.Delete(ctx, req.GetName(), req.GetEtag(), core.Request{
		ID: req.GetRequestId(), Actor: actor(ctx), Reason: req.GetReason(), ValidateOnly: req.GetValidateOnly(),
	})
	if err != nil {
		return nil, failure(err)
	}
	return &automationv1.DeleteSourceResponse{}, nil
}

// Hold implements SwitchService.
func (h *Handler) Hold(ctx context.Context, req *automationv1.HoldRequest) (*automationv1.HoldResponse, error) {
	spec := req.GetSpec()
	t, err := h.registry.Throw(ctx, core.Order{
		Scope: FromScope(spec.GetScope()), Verb: core.Hold, Reason: spec.GetReason(), Actor: actor(ctx),
		TTL: spec.GetTtl().AsDuration(), UntilResumed: spec.GetUntilResumed(), ValidateOnly: spec.GetValidateOnly(),
		RequestID: spec.GetRequestId(), PreviewEtag: spec.GetPreviewEtag(), CancelRunning: req.GetCancelRunning(),
	})
	if err != nil {
		return nil, failure(err)
	}
	return &automationv1.HoldResponse{Switch: ToSwitch(t.Switch), Proof: toProof(t.Proof), Preview: toPreview(t.Preview)}, nil
}

// Resume implements SwitchService.
func (h *Handler) Resume(ctx context.Context, req *automationv1.ResumeRequest) (*automationv1.ResumeResponse, error) {
	t, err := h.registry.Throw(ctx, core.Order{
		Scope: FromScope(req.GetScope()), Verb: core.Resume, Reason: req.GetReason(), Actor: actor(ctx),
		RequestID: req.GetRequestId(), Ramp: req.GetRampRate(),
	})
	if err != nil {
		return nil, failure(err)
	}
	return &automationv1.ResumeResponse{Switch: ToSwitch(t.Switch), Proof: toProof(t.Proof), Preview: toPreview(t.Preview)}, nil
}

// ListSwitches implements SwitchService. A page token is the last scope of the page before.
func (h *Handler) ListSwitches(_ context.Context, req *automationv1.ListSwitchesRequest) (*automationv1.ListSwitchesResponse, error) {
	parts, ok := openToken(req.GetPageToken(), "w")
	after := core.Scope{}
	if ok && req.GetPageToken() != "" {
		ok = len(parts) == 3 && len(parts[0]) == 1
		if ok {
			after = core.Scope{Kind: core.Kind(parts[0][0] - '0'), Source: parts[1], Tenant: parts[2]}
		}
	}
	if !ok {
		return nil, failure(core.Bad("page_token", "is not one that ListSwitches gave"))
	}
	size := pageSize(req.GetPageSize())
	list, err := h.registry.Switches(req.GetFilter(), after, size+1)
	if err != nil {
		return nil, failure(err)
	}
	res := &automationv1.ListSwitchesResponse{}
	if len(list) > size {
		list = list[:size]
		last := list[size-1].Scope
		res.NextPageToken = token("w", string([]byte{'0' + byte(last.Kind)}), last.Source, last.Tenant)
	}
	for _, s := range list {
		res.Switches = append(res.Switches, ToSwitch(s))
	}
	return res, nil
}

// token packs where a page ended. Callers must not look into it, so it does not look like what it is.
func token(kind string, parts ...string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + "\x00" + strings.Join(parts, "\x00")))
}

func openToken(t, kind string) (parts []string, ok bool) {
	if t == "" {
		return nil, true
	}
	b, err := base64.RawURLEncoding.DecodeString(t)
	if err != nil {
		return nil, false
	}
	parts = strings.Split(string(b), "\x00")
	return parts[1:], parts[0] == kind && len(parts) > 1
}

// actor is who is named in the audit.
func actor(ctx context.Context) string {
	caller, _ := rpc.CallerFrom(ctx)
	return caller.Subject
}
