package tests

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "chorale/proto/gen/chorale/v1"
)

func textPrompt(s string) *pb.Prompt { return &pb.Prompt{Kind: &pb.Prompt_Text{Text: s}} }

func greedyParams(n int32) *pb.SamplingParams {
	return &pb.SamplingParams{MaxTokens: &n, Temperature: proto.Float64(0), IgnoreEos: true}
}

func testGRPC(s *site) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	chat := &pb.Prompt{Kind: &pb.Prompt_Chat{Chat: &pb.Chat{Messages: []*pb.ChatMessage{{Role: "user", Content: "Say hello."}}}}}
	ids := &pb.Prompt{Kind: &pb.Prompt_TokenIds{TokenIds: &pb.TokenIds{Ids: []int32{504, 11838, 3717}}}}
	req := &pb.GenerateRequest{
		Prompts: []*pb.Prompt{textPrompt(prompt), textPrompt(prompt), chat, ids}, Adapters: []string{"alto", "", "bass", ""},
		Sampling: greedyParams(8), RequestId: "r1", Logprobs: &pb.LogprobOptions{Enabled: true, Top: 2},
	}
	resp, err := s.infer.Generate(ctx, req)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.RequestId != "r1" || len(resp.Generations) != 4 {
		s.t.Fatalf("answer: %v", resp)
	}
	for i, g := range resp.Generations {
		if int(g.PromptIndex) != i || g.Adapter != req.Adapters[i] || (g.AdapterDigest == "") != (g.Adapter == "") ||
			len(g.TokenIds) != 8 || g.Finish.GetReason() != pb.FinishReason_FINISH_REASON_LENGTH || g.Usage.GetCompletionTokens() != 8 ||
			len(g.Logprobs) != 8 || len(g.Logprobs[0].Top) != 2 {
			s.t.Errorf("answer %d: %v", i, g)
		}
	}
	if got := resp.Generations[0].Text; got != s.say(prompt, "alto", 8) {
		s.t.Errorf("alto over gRPC: %q, over SGLang %q", got, s.say(prompt, "alto", 8))
	}
	s.same("grpc chat", resp.Generations[2].Text)

	// The stream's pieces make up the same.
	stream, err := s.infer.GenerateStream(ctx, &pb.GenerateStreamRequest{Request: req})
	if err != nil {
		s.t.Fatal(err)
	}
	pieces := make([]string, 4)
	ended := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.t.Fatal(err)
		}
		pieces[m.PromptIndex] += m.Text
		if m.Finish != nil {
			ended++
		}
	}
	for i, g := range resp.Generations {
		if pieces[i] != g.Text {
			s.t.Errorf("stream %d: %q, at once %q", i, pieces[i], g.Text)
		}
	}
	if ended != 4 {
		s.t.Errorf("%d of 4 streams ended", ended)
	}
	s.grpcErrors(ctx)
}

// grpcErrors: codes, reasons and field paths.
func (s *site) grpcErrors(ctx context.Context) {
	s.t.Helper()
	nan := proto.Float64(0)
	*nan /= *nan
	long := textPrompt(strings.Repeat("word ", 600))
	for _, c := range []struct {
		what   string
		req    *pb.GenerateRequest
		code   codes.Code
		reason string
		says   string
	}{
		{"unknown adapter", &pb.GenerateRequest{Prompts: []*pb.Prompt{textPrompt("x")}, Adapters: []string{"ghost"}}, codes.NotFound, "ADAPTER_NOT_FOUND", "ghost"},
		{"no prompt", &pb.GenerateRequest{}, codes.InvalidArgument, "INVALID_REQUEST", "prompts"},
		{"empty prompt", &pb.GenerateRequest{Prompts: []*pb.Prompt{textPrompt("")}}, codes.InvalidArgument, "INVALID_REQUEST", "prompts[0]"},
		{"more prompts than adapters", &pb.GenerateRequest{Prompts: []*pb.Prompt{textPrompt("x"), textPrompt("y")}, Adapters: []string{"alto"}}, codes.InvalidArgument, "INVALID_REQUEST", "adapters"},
		{"NaN", &pb.GenerateRequest{Prompts: []*pb.Prompt{textPrompt("x")}, Sampling: &pb.SamplingParams{Temperature: nan}}, codes.InvalidArgument, "INVALID_REQUEST", "sampling.temperature"},
		{"negative", &pb.GenerateRequest{Prompts: []*pb.Prompt{textPrompt("x")}, Sampling: &pb.SamplingParams{MaxTokens: proto.Int32(-1)}}, codes.InvalidArgument, "INVALID_REQUEST", "sampling.max_tokens"},
		{"token id", &pb.GenerateRequest{Prompts: []*pb.Prompt{{Kind: &pb.Prompt_TokenIds{TokenIds: &pb.TokenIds{Ids: []int32{1, 1 << 30}}}}}}, codes.InvalidArgument, "INVALID_REQUEST", "prompts[0].token_ids.ids[1]"},
		{"too long", &pb.GenerateRequest{Prompts: []*pb.Prompt{textPrompt("x"), long}}, codes.InvalidArgument, "PROMPT_TOO_LONG", "prompts[1]"},
	} {
		_, err := s.infer.Generate(ctx, c.req)
		st := status.Convert(err)
		reason := ""
		for _, d := range st.Details() {
			if e, ok := d.(*errdetails.ErrorInfo); ok && e.Domain == "chorale" {
				reason = e.Reason
			}
		}
		if st.Code() != c.code || reason != c.reason || !strings.Contains(st.Message(), c.says) {
			s.t.Errorf("%s: %v, reason %q; want %v, %s, %q", c.what, err, reason, c.code, c.reason, c.says)
		}
	}
}

func testNative(s *site) {
	body := object{
		"prompts": []object{{"text": prompt}, {"chat": object{"messages": []object{{"role": "user", "content": "Say hello."}}}}}, "adapters": []string{"canto", ""},
		"sampling": object{"maxTokens": 6, "temperature": 0, "ignoreEos": true}, "requestId": "rest-1",
	}
	var out struct {
		RequestID   string `json:"requestId"`
		Generations []struct {
			Text, Adapter, AdapterDigest string
			TokenIDs                     []int32 `json:"tokenIds"`
			Finish                       struct{ Reason string }
			Usage                        struct{ PromptTokens, CompletionTokens int }
		}
	}
	s.ask("/chorale/v1/generate", body, &out)
	if out.RequestID != "rest-1" || len(out.Generations) != 2 {
		s.t.Fatalf("answer: %+v", out)
	}
	g := out.Generations
	if g[0].Adapter != "canto" || g[1].Adapter != "" || g[0].Finish.Reason != "FINISH_REASON_LENGTH" || g[0].Usage.CompletionTokens != 6 || len(g[1].TokenIDs) != 6 {
		s.t.Errorf("answer: %+v", out)
	}
	// snake_case names are taken as well.
	var again struct{ Generations []struct{ Text string } }
	body["sampling"] = object{"max_tokens": 6, "temperature": 0, "ignore_eos": true}
	s.ask("/chorale/v1/generate", body, &again)
	if again.Generations[0].Text != g[0].Text {
		s.t.Errorf("snake case: %+v", again)
	}
	s.nativeStream(body, g[0].Text, g[1].Text)
}

// nativeStream: one JSON object per line.
func (s *site) nativeStream(request object, want ...string) {
	s.t.Helper()
	pieces := make([]string, len(want))
	lines := 0
	code, err := s.stream(context.Background(), "/chorale/v1/generate:stream", object{"request": request}, func(line string) bool {
		var m struct {
			Result *struct {
				PromptIndex int
				Text        string
			}
			Error *object
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil || m.Result == nil || m.Error != nil {
			s.t.Errorf("line %q: %v", line, err)
			return false
		}
		pieces[m.Result.PromptIndex] += m.Result.Text
		lines++
		return true
	})
	if err != nil || code != 200 || lines < 4 || !slices.Equal(pieces, want) {
		s.t.Errorf("stream: %d %v, %d lines, %q; want %q", code, err, lines, pieces, want)
	}
}

func testTokenize(s *site) {
	var toks struct {
		IDs        []int32 `json:"ids"`
		Tokens     []string
		MaxContext int
	}
	s.ask("/chorale/v1/tokenize", object{"prompt": object{"text": "Hello, sea!"}}, &toks)
	if len(toks.IDs) == 0 || len(toks.IDs) != len(toks.Tokens) || toks.MaxContext != 512 {
		s.t.Errorf("%+v", toks)
	}
	var back struct{ Text string }
	s.ask("/chorale/v1/detokenize", object{"ids": toks.IDs}, &back)
	if back.Text != "Hello, sea!" {
		s.t.Errorf("detokenized: %q", back.Text)
	}
	var vllm struct {
		Count, MaxModelLen int
		Tokens             []int32
	}
	s.ask("/tokenize", object{"model": served, "prompt": "Hello, sea!"}, &vllm)
	if !slices.Equal(vllm.Tokens, toks.IDs) {
		s.t.Errorf("%v, natively %v", vllm.Tokens, toks.IDs)
	}
}

func testHealth(s *site) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	h := grpc_health_v1.NewHealthClient(s.conn)
	for _, name := range []string{"", "chorale.v1.InferenceService", "chorale.v1.AdapterService"} {
		r, err := h.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: name})
		if err != nil || r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			s.t.Errorf("health of %q: %v %v", name, r, err)
		}
	}
	r, err := grpc_reflection_v1.NewServerReflectionClient(s.conn).ServerReflectionInfo(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := r.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		s.t.Fatal(err)
	}
	m, err := r.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	var services []string
	for _, x := range m.GetListServicesResponse().GetService() {
		services = append(services, x.Name)
	}
	for _, want := range []string{"chorale.v1.InferenceService", "chorale.v1.AdapterService", "grpc.health.v1.Health"} {
		if !slices.Contains(services, want) {
			s.t.Errorf("reflection tells %v, not %s", services, want)
		}
	}
	for _, path := range []string{"/health", "/health_generate", "/ping", "/version", "/openapi.json"} {
		if code, body := s.get(path); code != 200 {
			s.t.Errorf("%s: %d %s", path, code, body)
		}
	}
	var model struct {
		Name             string
		ContextLength    int
		HasChatTemplate  bool
		MaxLorasPerBatch int
		LoraEnabled      bool
	}
	if code, raw := s.get("/chorale/v1/model"); code != 200 || json.Unmarshal(raw, &model) != nil || model.Name != served || model.ContextLength != 512 || !model.HasChatTemplate || model.MaxLorasPerBatch != 4 || !model.LoraEnabled {
		s.t.Errorf("model: %d %s", code, raw)
	}
}

// testDisconnect: a client that goes away frees its sequence.
func testDisconnect(s *site) {
	for _, path := range []string{"/generate", "/v1/completions", "grpc", "unread"} {
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			switch path {
			case "grpc":
				n := int32(480)
				st, err := s.infer.GenerateStream(ctx, &pb.GenerateStreamRequest{Request: &pb.GenerateRequest{Prompts: []*pb.Prompt{textPrompt(prompt)}, Sampling: greedyParams(n)}})
				for err == nil {
					_, err = st.Recv()
				}
			case "unread": // the answer is not a stream: nothing is written meanwhile
				_, _ = s.stream(ctx, "/generate", greedy(prompt, "bass", 480), func(string) bool { return true })
			default:
				body := greedy(prompt, "alto", 480)
				body["stream"], body["model"], body["prompt"], body["max_tokens"], body["ignore_eos"] = true, "alto", prompt, 480, true
				_, _ = s.stream(ctx, path, body, func(string) bool { return true })
			}
		}()
		s.until("the request runs on a worker", callLimit, s.running)
		cancel()
		<-gone
		began := time.Now()
		s.idle(callLimit)
		if took := time.Since(began); took > 5*time.Second {
			s.t.Errorf("%s: freed after %v", path, took)
		}
	}
}
