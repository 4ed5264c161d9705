package inference_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/services/inference"
	"chorale/services/rest/facetest"
	"chorale/services/rpc"
	"chorale/services/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) (*facetest.Router, choralev1.InferenceServiceClient) {
	t.Helper()
	r := facetest.New("a", "b")
	s, err := rpc.NewServer(rpc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	inference.Register(s, r, facetest.Tokens{})
	done := make(chan error, 1)
	go func() { done <- s.ServeLoop() }()
	conn, err := s.Loop()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		<-done
		if n := r.Open(); n != 0 {
			t.Errorf("%d handles were left open", n)
		}
	})
	return r, choralev1.NewInferenceServiceClient(conn)
}

func text(s string) *choralev1.Prompt {
	return &choralev1.Prompt{Kind: &choralev1.Prompt_Text{Text: s}}
}

func ids(n ...int32) *choralev1.Prompt {
	return &choralev1.Prompt{Kind: &choralev1.Prompt_TokenIds{TokenIds: &choralev1.TokenIds{Ids: n}}}
}

func ptr[T any](v T) *T { return &v }

func TestGenerate(t *testing.T) {
	r, c := start(t)
	got, err := c.Generate(t.Context(), &choralev1.GenerateRequest{
		Prompts: []*choralev1.Prompt{ids(104, 105), text("x")}, Adapters: []string{"a", ""},
		Sampling:  &choralev1.SamplingParams{MaxTokens: ptr[int32](1)},
		Logprobs:  &choralev1.LogprobOptions{Enabled: true, PromptStart: ptr[int32](1), Top: 1, TokenIds: []int32{195}},
		RequestId: "r", User: "u",
	})
	if err != nil {
		t.Fatal(err)
	}
	lp := func(id int32, p float64, token string) *choralev1.TokenLogprob {
		return &choralev1.TokenLogprob{TokenId: id, Logprob: p, Token: token, Known: true}
	}
	pos := func(id int32, p float64, token string) *choralev1.PositionLogprobs {
		return &choralev1.PositionLogprobs{Token: lp(id, p, token), Top: []*choralev1.TokenLogprob{lp(id, p, token)}, Requested: []*choralev1.TokenLogprob{lp(195, p-9, "\uFFFD")}}
	}
	length := &choralev1.Finish{Reason: choralev1.FinishReason_FINISH_REASON_LENGTH}
	usage := &choralev1.Usage{PromptTokens: 2, CompletionTokens: 1, CachedTokens: 1}
	want := &choralev1.GenerateResponse{RequestId: "r", Generations: []*choralev1.Generation{
		{
			Text: "[a]Hello", TokenIds: []int32{257}, Finish: length, Usage: usage, Adapter: "a", AdapterDigest: "sha256:a",
			PromptLogprobs: []*choralev1.PositionLogprobs{pos(105, -1, "i")},
			Logprobs:       []*choralev1.PositionLogprobs{pos(257, -0.5, "Hello")},
		},
		{
			PromptIndex: 1, Text: "Hello", TokenIds: []int32{257}, Finish: length, Usage: usage,
			PromptLogprobs: []*choralev1.PositionLogprobs{pos(120, -1, "x")},
			Logprobs:       []*choralev1.PositionLogprobs{pos(257, -0.5, "Hello")},
		},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	reqs := r.Requests()
	if reqs[1].Field != "prompts[1]" || reqs[1].User != "u" || reqs[1].ID != "r" {
		t.Errorf("%+v", reqs[1])
	}
}

func TestSampling(t *testing.T) {
	r, c := start(t)
	_, err := c.Generate(t.Context(), &choralev1.GenerateRequest{
		Prompts: []*choralev1.Prompt{{Kind: &choralev1.Prompt_Chat{Chat: &choralev1.Chat{
			Messages: []*choralev1.ChatMessage{{Role: "user", Content: "x", Name: "n"}}, AddGenerationPrompt: ptr(false),
		}}}},
		Sampling: &choralev1.SamplingParams{
			MaxTokens: ptr[int32](3), MinTokens: ptr[int32](1), Temperature: ptr(0.0), TopP: ptr(0.5), TopK: ptr[int32](4), MinP: ptr(0.1),
			FrequencyPenalty: ptr(1.0), PresencePenalty: ptr(-1.0), RepetitionPenalty: ptr(1.2), LogitBias: map[int32]float64{1: 2},
			Stop: []string{"s"}, StopTokenIds: []int32{9}, StopRegex: []string{"r"}, IgnoreEos: true, NoStopTrim: true,
			SkipSpecialTokens: ptr(false), SpacesBetweenSpecialTokens: ptr(false), Seed: ptr[uint64](7), N: ptr[int32](2),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	req := r.Requests()[0]
	want := router.Sampling{
		MaxTokens: 3, MinTokens: 1, TopP: 0.5, TopK: 4, MinP: 0.1, FrequencyPenalty: 1, PresencePenalty: -1, RepetitionPenalty: 1.2,
		LogitBias: map[int32]float64{1: 2}, Stop: []string{"s"}, StopTokenIDs: []int32{9}, StopRegex: []string{"r"},
		IgnoreEOS: true, NoStopTrim: true, Seed: ptr[uint64](7), N: 2,
	}
	if diff := cmp.Diff(want, req.Sampling); diff != "" {
		t.Error(diff)
	}
	if string(req.Prompt.Messages) != `[{"role":"user","content":"x","name":"n"}]` || !req.Prompt.NoGenerationPrompt {
		t.Errorf("%s", req.Prompt.Messages)
	}
	if _, err := c.Generate(t.Context(), &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(router.DefaultSampling(), r.Requests()[0].Sampling); diff != "" {
		t.Error(diff)
	}
}

func TestGenerateStream(t *testing.T) {
	_, c := start(t)
	s, err := c.GenerateStream(t.Context(), &choralev1.GenerateStreamRequest{Request: &choralev1.GenerateRequest{
		Prompts: []*choralev1.Prompt{text("x"), text("y")}, Adapters: []string{"", "b"}, Sampling: &choralev1.SamplingParams{N: ptr[int32](2)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	texts, finished := map[string]string{}, 0
	for {
		p, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		texts[fmt.Sprint(p.PromptIndex, p.ChoiceIndex, p.Adapter)] += p.Text
		if p.Finish != nil {
			finished++
			if p.Usage.GetCompletionTokens() != 3 || p.Finish.GetTokenId() != facetest.EOS {
				t.Errorf("%v", p)
			}
		}
	}
	want := map[string]string{"0 0": "Hello world", "0 1": "Hello world", "1 0b": "[b]Hello world", "1 1b": "[b]Hello world"}
	for k, v := range texts {
		delete(texts, k)
		texts[strings.TrimSpace(k)] = v
	}
	if len(texts) != len(want) || finished != 4 {
		t.Errorf("%v, %d finished", texts, finished)
	}
}

func TestStreamCancel(t *testing.T) {
	r, c := start(t)
	r.Hang, r.Script = true, facetest.Endless
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.GenerateStream(ctx, &choralev1.GenerateStreamRequest{Request: &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x"), text("y")}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	r.WaitClosed(t)
}

func TestBadInput(t *testing.T) {
	_, c := start(t)
	for _, tt := range []struct {
		name   string
		req    *choralev1.GenerateRequest
		code   codes.Code
		reason string
		field  string
	}{
		{"no prompts", &choralev1.GenerateRequest{}, codes.InvalidArgument, status.ReasonInvalid, "prompts"},
		{"prompt of nothing", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x"), {}}}, codes.InvalidArgument, status.ReasonInvalid, "prompts[1].kind"},
		{"empty text", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x"), text("")}}, codes.InvalidArgument, status.ReasonInvalid, "prompts[1].text"},
		{"empty ids", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{ids()}}, codes.InvalidArgument, status.ReasonInvalid, "prompts[0].token_ids.ids"},
		{"negative id", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{ids(1, -1)}}, codes.InvalidArgument, status.ReasonInvalid, "prompts[0].token_ids.ids[1]"},
		{"empty chat", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{{Kind: &choralev1.Prompt_Chat{Chat: &choralev1.Chat{}}}}}, codes.InvalidArgument, status.ReasonInvalid, "prompts[0].chat.messages"},
		{"more prompts than adapters", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x"), text("y")}, Adapters: []string{"a"}}, codes.InvalidArgument, status.ReasonInvalid, "adapters"},
		{"more adapters than prompts", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Adapters: []string{"a", "b"}}, codes.InvalidArgument, status.ReasonInvalid, "adapters"},
		{"unknown adapter", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Adapters: []string{"nope"}}, codes.NotFound, status.ReasonAdapterNotFound, ""},
		{"NaN temperature", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Sampling: &choralev1.SamplingParams{Temperature: ptr(math.NaN())}}, codes.InvalidArgument, status.ReasonInvalid, "sampling.temperature"},
		{"negative temperature", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Sampling: &choralev1.SamplingParams{Temperature: ptr(-1.0)}}, codes.InvalidArgument, status.ReasonInvalid, "sampling.temperature"},
		{"NaN top_p", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Sampling: &choralev1.SamplingParams{TopP: ptr(math.NaN())}}, codes.InvalidArgument, status.ReasonInvalid, "sampling.top_p"},
		{"NaN min_p", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Sampling: &choralev1.SamplingParams{MinP: ptr(math.NaN())}}, codes.InvalidArgument, status.ReasonInvalid, "sampling.min_p"},
		{"NaN penalty", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Sampling: &choralev1.SamplingParams{RepetitionPenalty: ptr(math.NaN())}}, codes.InvalidArgument, status.ReasonInvalid, "sampling.repetition_penalty"},
		{"negative max_tokens", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Sampling: &choralev1.SamplingParams{MaxTokens: ptr[int32](-1)}}, codes.InvalidArgument, status.ReasonInvalid, "sampling.max_tokens"},
		{"infinite bias", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Sampling: &choralev1.SamplingParams{LogitBias: map[int32]float64{3: math.Inf(1)}}}, codes.InvalidArgument, status.ReasonInvalid, "sampling.logit_bias[3]"},
		{"id beyond the vocabulary", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{ids(1, 999)}}, codes.InvalidArgument, status.ReasonInvalid, "prompts[0].token_ids.ids[1]"},
		{"stop token", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Sampling: &choralev1.SamplingParams{StopTokenIds: []int32{1, 999}}}, codes.InvalidArgument, status.ReasonInvalid, "sampling.stop_token_ids[1]"},
		{"biased token", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Sampling: &choralev1.SamplingParams{LogitBias: map[int32]float64{999: 1}}}, codes.InvalidArgument, status.ReasonInvalid, "sampling.logit_bias[999]"},
		{"logprob token", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x")}, Logprobs: &choralev1.LogprobOptions{TokenIds: []int32{-2}}}, codes.InvalidArgument, status.ReasonInvalid, "logprobs.token_ids[0]"},
		{"too long", &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text(strings.Repeat("x", 600))}}, codes.InvalidArgument, status.ReasonTooLong, "prompts[0]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.Generate(t.Context(), tt.req)
			s, serr := c.GenerateStream(t.Context(), &choralev1.GenerateStreamRequest{Request: tt.req})
			if serr == nil {
				_, serr = s.Recv()
			}
			if p := status.Of(err); p.Code != tt.code || p.Reason != tt.reason || p.Field() != tt.field {
				t.Errorf("%v: %+v", err, p)
			}
			field := tt.field
			if field != "" {
				field = "request." + field
			}
			if p := status.Of(serr); p.Code != tt.code || p.Reason != tt.reason || p.Field() != field {
				t.Errorf("stream: %v: %+v", serr, p)
			}
			if tt.field == "" && !strings.Contains(err.Error(), "nope") {
				t.Errorf("%v does not name the adapter", err)
			}
		})
	}
	if s, err := c.GenerateStream(t.Context(), &choralev1.GenerateStreamRequest{}); err == nil {
		if _, err = s.Recv(); status.Of(err).Field() != "request" {
			t.Errorf("no request = %v", err)
		}
	}
}

func TestFailures(t *testing.T) {
	r, c := start(t)
	req := &choralev1.GenerateRequest{Prompts: []*choralev1.Prompt{text("x"), text("y")}}
	for err, want := range map[error]codes.Code{
		router.ErrOverloaded: codes.ResourceExhausted, router.ErrUnavailable: codes.Unavailable, router.ErrDraining: codes.Unavailable,
		router.ErrAdapterNotReady: codes.FailedPrecondition, router.ErrLoRADisabled: codes.FailedPrecondition,
	} {
		r.SubmitErr = err
		_, got := c.Generate(t.Context(), req)
		if p := status.Of(got); p.Code != want {
			t.Errorf("%v = %+v", err, p)
		}
	}
	r.SubmitErr, r.NextErr = nil, router.ErrWorkerLost
	if _, err := c.Generate(t.Context(), req); status.Of(err).Reason != status.ReasonWorkerLost {
		t.Errorf("lost = %v", err)
	}
	r.NextErr = nil
	finish := func(err error) {
		r.Script = func(*router.Request, []int32) []router.Event {
			return []router.Event{{Text: "x", IDs: []int32{1}, Finish: &router.Finish{Reason: router.FinishAbort, TokenID: -1, Err: err}}}
		}
	}
	finish(fmt.Errorf("%w: out of memory", router.ErrWorker))
	if _, err := c.Generate(t.Context(), req); status.Of(err).Reason != status.ReasonWorker {
		t.Errorf("failed = %v", err)
	}
	finish(router.ErrAborted)
	resp, err := c.Generate(t.Context(), req)
	if err != nil || resp.Generations[1].Finish.Reason != choralev1.FinishReason_FINISH_REASON_ABORT || resp.RequestId == "" {
		t.Errorf("aborted = %v, %v", resp, err)
	}
	r.Script = func(*router.Request, []int32) []router.Event { return []router.Event{{Choice: 7}} }
	if _, err := c.Generate(t.Context(), req); status.Of(err).Code != codes.Internal {
		t.Errorf("odd choice = %v", err)
	}
}

func TestTokens(t *testing.T) {
	_, c := start(t)
	tok, err := c.Tokenize(t.Context(), &choralev1.TokenizeRequest{Prompt: text("hi")})
	want := &choralev1.TokenizeResponse{Ids: []int32{256, 104, 105}, Tokens: []string{"<eos>", "<0x68>", "<0x69>"}, MaxContext: 512}
	if diff := cmp.Diff(want, tok, protocmp.Transform()); err != nil || diff != "" {
		t.Error(err, diff)
	}
	tok, err = c.Tokenize(t.Context(), &choralev1.TokenizeRequest{Prompt: text("h"), AddSpecialTokens: ptr(false)})
	if err != nil || len(tok.Ids) != 1 {
		t.Error(err, tok)
	}
	de, err := c.Detokenize(t.Context(), &choralev1.DetokenizeRequest{Ids: []int32{104, 256}, SkipSpecialTokens: true})
	if err != nil || de.Text != "h" {
		t.Error(err, de)
	}
	if _, err := c.Detokenize(t.Context(), &choralev1.DetokenizeRequest{Ids: []int32{104, 999}}); status.Of(err).Field() != "ids[1]" {
		t.Error(err)
	}
}

func TestInfo(t *testing.T) {
	r, c := start(t)
	m, err := c.GetModel(t.Context(), &choralev1.GetModelRequest{})
	if err != nil || m.Name != "tiny" || m.ContextLength != 512 || !m.LoraEnabled {
		t.Error(err, m)
	}
	r.St.Groups = append(r.St.Groups, router.GroupState{Address: "w1", Err: errors.New("refused")})
	i, err := c.GetServerInfo(t.Context(), &choralev1.GetServerInfoRequest{})
	if err != nil || len(i.WorkerGroups) != 2 || i.WorkerGroups[1].Error != "refused" || i.Version != "test" {
		t.Error(err, i)
	}
}

func TestReady(t *testing.T) {
	up, down := router.GroupState{Connected: true}, router.GroupState{Err: errors.New("refused")}
	if err := inference.Ready(router.ServerState{Groups: []router.GroupState{down, up}}); err != nil {
		t.Error(err)
	}
	if err := inference.Ready(router.ServerState{Groups: []router.GroupState{down}}); !errors.Is(err, router.ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
	if err := inference.Ready(router.ServerState{Groups: []router.GroupState{up}, Draining: true}); !errors.Is(err, router.ErrDraining) {
		t.Error(err)
	}
}
