package facetest

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/router"
)

// Adapters is an adapter manager that keeps its adapters in a Router's
// catalogue. Sources below "/missing" do not exist; a source "/error/REASON"
// fails with that reason.
type Adapters struct {
	choralev1.AdapterServiceClient
	Router *Router
	// Evict is told by the next load to have been evicted.
	Evict []string
	// Requests are the loads that came.
	Requests []*choralev1.LoadAdapterRequest
}

// LoadAdapter loads.
func (a *Adapters) LoadAdapter(_ context.Context, req *choralev1.LoadAdapterRequest, _ ...grpc.CallOption) (*choralev1.LoadAdapterResponse, error) {
	a.Requests = append(a.Requests, req)
	if reason, ok := strings.CutPrefix(req.Source, "/error/"); ok {
		return nil, fault(codes.FailedPrecondition, reason, "cannot load %s", req.Name)
	}
	if strings.HasPrefix(req.Source, "/missing") {
		return nil, fault(codes.NotFound, "ADAPTER_SOURCE_NOT_FOUND", "no adapter at %s", req.Source)
	}
	if old := a.Router.Catalogue().Adapters[req.Name]; old != nil && !req.Replace {
		return nil, fault(codes.AlreadyExists, "ADAPTER_ALREADY_LOADED", "adapter %s exists", req.Name)
	}
	a.Router.Change(func(c *router.Catalogue) {
		c.Adapters[req.Name] = &router.AdapterEntry{
			Name: req.Name, Source: req.Source, Digest: "sha256:" + req.Name, Pinned: req.Pinned, Usable: true, Created: Created.Unix(),
		}
	})
	return &choralev1.LoadAdapterResponse{
		Adapter: &choralev1.Adapter{Name: req.Name}, Revision: a.Router.Catalogue().Revision, Evicted: a.Evict,
	}, nil
}

// UnloadAdapter unloads.
func (a *Adapters) UnloadAdapter(_ context.Context, req *choralev1.UnloadAdapterRequest, _ ...grpc.CallOption) (*choralev1.UnloadAdapterResponse, error) {
	if a.Router.Catalogue().Adapters[req.Name] == nil {
		return nil, fault(codes.NotFound, "ADAPTER_NOT_FOUND", "adapter %s is not registered", req.Name)
	}
	a.Router.Change(func(c *router.Catalogue) { delete(c.Adapters, req.Name) })
	return &choralev1.UnloadAdapterResponse{Revision: a.Router.Catalogue().Revision}, nil
}

func fault(code codes.Code, reason, format string, args ...any) error {
	s := grpcstatus.New(code, fmt.Sprintf(format, args...))
	if d, err := s.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "chorale"}); err == nil {
		s = d
	}
	return s.Err()
}
