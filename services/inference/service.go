package inference

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"chorale/internal/tokenizer"
	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/services/inference/answer"
	"chorale/services/status"
)

// Router is what the service needs of the router.
type Router interface {
	// Submit validates and enqueues all requests, or none and says why.
	Submit(ctx context.Context, reqs []*router.Request) ([]*router.Handle, error)
	Encode(p router.Prompt, addSpecial bool) ([]int32, error)
	Model() router.ModelInfo
	State() router.ServerState
}

// Tokens is what the service needs of the tokenizer.
type Tokens interface {
	Decode(ids []int32, o tokenizer.DecodeOptions) string
	Token(id int32) (string, bool)
	TokenBytes(id int32) []byte
	VocabSize() int
}

// Service implements chorale.v1.InferenceService. It expects validated
// messages: serve it behind rpc.Server's interceptors.
type Service struct {
	choralev1.UnimplementedInferenceServiceServer
	router Router
	tokens Tokens
}

var _ choralev1.InferenceServiceServer = (*Service)(nil)

// New makes the service.
func New(r Router, t Tokens) *Service { return &Service{router: r, tokens: t} }

// Register makes the service and registers it.
func Register(s grpc.ServiceRegistrar, r Router, t Tokens) {
	choralev1.RegisterInferenceServiceServer(s, New(r, t))
}

// Generate answers a list of prompts, each by its adapter.
func (s *Service) Generate(ctx context.Context, req *choralev1.GenerateRequest) (*choralev1.GenerateResponse, error) {
	reqs, err := s.requests(req, "")
	if err != nil {
		return nil, status.GRPC(err)
	}
	handles, err := s.router.Submit(ctx, reqs)
	if err != nil {
		return nil, status.GRPC(err)
	}
	set, err := answer.Collect(ctx, handles, reqs)
	if err != nil {
		return nil, status.GRPC(err)
	}
	resp := &choralev1.GenerateResponse{RequestId: requestID(req, handles)}
	for _, choices := range set {
		for _, a := range choices {
			resp.Generations = append(resp.Generations, s.generation(a))
		}
	}
	return resp, nil
}

// GenerateStream answers like Generate, in pieces as they are made.
func (s *Service) GenerateStream(req *choralev1.GenerateStreamRequest, ss choralev1.InferenceService_GenerateStreamServer) error {
	ctx := ss.Context()
	reqs, err := s.requests(req.GetRequest(), "request.")
	if err != nil {
		return status.GRPC(err)
	}
	handles, err := s.router.Submit(ctx, reqs)
	if err != nil {
		return status.GRPC(err)
	}
	id := requestID(req.GetRequest(), handles)
	set := answer.NewSet(handles, reqs)
	err = answer.Each(ctx, handles, func(i int, ev router.Event) error {
		if err := answer.Failure(ev.Finish); err != nil {
			return err
		}
		a, err := set.Add(i, ev)
		if err != nil {
			return err
		}
		return ss.Send(s.piece(id, a, ev))
	})
	return status.GRPC(err)
}

// Tokenize gives the ids of a prompt as Generate would see them.
func (s *Service) Tokenize(_ context.Context, req *choralev1.TokenizeRequest) (*choralev1.TokenizeResponse, error) {
	p, err := s.prompt(req.GetPrompt(), "prompt")
	if err != nil {
		return nil, status.GRPC(err)
	}
	special := req.AddSpecialTokens == nil || *req.AddSpecialTokens
	ids, err := s.router.Encode(p, special)
	if err != nil {
		return nil, status.GRPC(err)
	}
	resp := &choralev1.TokenizeResponse{Ids: ids, MaxContext: int32(s.router.Model().Group.ContextLength)}
	for _, id := range ids {
		token, _ := s.tokens.Token(id)
		resp.Tokens = append(resp.Tokens, text(token))
	}
	return resp, nil
}

// HasText tells whether there is a tokenizer; without one its place is taken by
// what says so with a method NoText.
func HasText(t any) bool {
	_, none := t.(interface{ NoText() })
	return !none
}

// Detokenize gives the text of ids.
func (s *Service) Detokenize(_ context.Context, req *choralev1.DetokenizeRequest) (*choralev1.DetokenizeResponse, error) {
	if err := checkIDs(req.Ids, "ids", s.tokens.VocabSize()); err != nil {
		return nil, status.GRPC(err)
	}
	if !HasText(s.tokens) {
		return nil, status.GRPC(router.ErrNoTokenizer)
	}
	t := s.tokens.Decode(req.Ids, tokenizer.DecodeOptions{SkipSpecial: req.SkipSpecialTokens})
	return &choralev1.DetokenizeResponse{Text: text(t)}, nil
}

// GetModel describes the base model and its limits.
func (s *Service) GetModel(context.Context, *choralev1.GetModelRequest) (*choralev1.GetModelResponse, error) {
	m := s.router.Model()
	g := m.Group
	return &choralev1.GetModelResponse{
		Name: m.Name, Path: m.Path, ModelType: g.ModelType, Architectures: g.Architectures,
		ContextLength: int32(g.ContextLength), VocabSize: int32(g.VocabSize),
		Parameters: g.Parameters, Dtype: g.DType, HasChatTemplate: m.HasChatTemplate,
		MaxLoraRank: int32(g.MaxLoRARank), LoraModules: g.Modules,
		MaxLorasPerBatch: int32(g.MaxLoRAsPerBatch), LoraEnabled: m.LoRAEnabled,
	}, nil
}

// GetServerInfo tells version, worker groups, load and counters.
func (s *Service) GetServerInfo(context.Context, *choralev1.GetServerInfoRequest) (*choralev1.GetServerInfoResponse, error) {
	st := s.router.State()
	resp := &choralev1.GetServerInfoResponse{
		Version: st.Version, UptimeSeconds: time.Since(st.Started).Seconds(),
		Queued: int32(st.Queued), Running: int32(st.Running), RequestsTotal: st.Requests,
		PromptTokensTotal: st.PromptTokens, CompletionTokensTotal: st.CompletionTokens,
		CatalogueRevision: st.CatalogueRevision,
	}
	for _, g := range st.Groups {
		resp.WorkerGroups = append(resp.WorkerGroups, groupInfo(g))
	}
	return resp, nil
}

func groupInfo(g router.GroupState) *choralev1.WorkerGroupInfo {
	w := &choralev1.WorkerGroupInfo{
		Address: g.Address, Connected: g.Connected, Device: g.Info.Device,
		Running: int32(g.Status.Running), Waiting: int32(g.Status.Waiting),
		KvPagesUsed: int32(g.Status.KVPagesUsed), KvPagesTotal: int32(g.Status.KVPages),
		ResidentAdapters: g.Status.Resident, Steps: g.Status.Step,
		LastStepAdapters: int32(g.Status.StepAdapters), LastStepRows: int32(g.Status.StepRows),
		MaxStepAdapters: int32(g.Status.MaxStepAdapters), Draining: g.Status.Draining,
		Ranks: int32(g.Info.Ranks), Restarts: int32(g.Info.Restarts),
	}
	if g.Err != nil {
		w.Error = text(g.Err.Error())
	}
	for i := range g.Devices {
		w.Devices = append(w.Devices, deviceInfo(&g.Devices[i]))
	}
	return w
}

func deviceInfo(d *router.DeviceState) *choralev1.DeviceInfo {
	return &choralev1.DeviceInfo{
		Index: int32(d.Index), Name: text(d.Name), Uuid: text(d.UUID), PciBusId: text(d.PCI),
		MemoryTotalBytes: d.MemoryTotal, MemoryUsedBytes: d.MemoryUsed, Utilization: d.Utilization, MemoryUtilization: d.MemoryUtilization,
		TemperatureCelsius: int32(d.Temperature), PowerWatts: d.Power, PowerLimitWatts: d.PowerLimit,
		EccEnabled: d.ECCEnabled, EccCorrected: d.ECCCorrected, EccUncorrected: d.ECCUncorrected,
		XidEvents: d.XIDs, LastXid: d.LastXID, Unhealthy: text(d.Unhealthy),
	}
}

func requestID(req *choralev1.GenerateRequest, handles []*router.Handle) string {
	if req.GetRequestId() != "" || len(handles) == 0 {
		return req.GetRequestId()
	}
	return handles[0].ID
}

// Ready is for health checks: nil when requests can be answered now.
func Ready(st router.ServerState) error {
	if st.Draining {
		return router.ErrDraining
	}
	if st.Missing != "" {
		return fmt.Errorf("%w: adapter %q is not preloaded yet", router.ErrUnavailable, st.Missing)
	}
	err := router.ErrUnavailable
	for _, g := range st.Groups {
		if g.Usable() {
			return nil
		}
		if u := g.Unhealthy(); u != "" {
			err = fmt.Errorf("%w: %s", router.ErrUnavailable, u)
		}
		if g.Err != nil {
			err = errors.Join(router.ErrUnavailable, g.Err)
		}
	}
	return err
}
