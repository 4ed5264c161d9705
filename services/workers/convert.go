package workers

import (
	"errors"

	pb "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/worker/engine"
	"chorale/worker/lora"
	"chorale/worker/sample"
)

// Engine side: proto → engine.

func engineRequest(s *pb.Sequence) engine.Request {
	p := s.GetSampling()
	r := engine.Request{
		ID: s.GetId(), Tokens: s.GetTokenIds(), Generated: int(s.GetGenerated()), Adapter: s.GetAdapterDigest(),
		Params: sample.Params{
			Temperature: p.GetTemperature(), TopP: p.GetTopP(), TopK: int(p.GetTopK()), MinP: p.GetMinP(),
			FrequencyPenalty: p.GetFrequencyPenalty(), PresencePenalty: p.GetPresencePenalty(), RepetitionPenalty: p.GetRepetitionPenalty(),
			LogitBias: p.GetLogitBias(), Seed: p.GetSeed(), MinTokens: int(p.GetMinTokens()),
		},
		MaxTokens: int(p.GetMaxTokens()), StopIDs: p.GetStopTokenIds(), IgnoreEOS: p.GetIgnoreEos(),
	}
	if p.GetLogprobs() {
		r.Logprobs = &engine.Logprobs{
			PromptStart: int(p.GetPromptLogprobStart()), Top: int(p.GetTopLogprobs()), IDs: p.GetLogprobTokenIds(),
		}
	}
	return r
}

func outputProto(o *engine.Output) *pb.SequenceOutput {
	out := &pb.SequenceOutput{
		Id: o.ID, TokenIds: o.Tokens, Finish: reasonProto(o.Reason), CachedTokens: int32(o.Cached),
		Logprobs: positionsProto(o.Logprobs), PromptLogprobs: positionsProto(o.PromptLogprobs),
	}
	if o.Reason == engine.Stop {
		out.StopTokenId = &o.StopID
	}
	if o.Err != nil {
		out.Error, out.ErrorReason = o.Err.Error(), errorReason(o.Err)
	}
	return out
}

func reasonProto(r engine.Reason) pb.FinishReason {
	switch r {
	case engine.Stop:
		return pb.FinishReason_FINISH_REASON_STOP
	case engine.Length:
		return pb.FinishReason_FINISH_REASON_LENGTH
	case engine.Abort:
		return pb.FinishReason_FINISH_REASON_ABORT
	default:
		return pb.FinishReason_FINISH_REASON_UNSPECIFIED
	}
}

// errorReason names what the router acts upon.
func errorReason(err error) string {
	switch {
	case errors.Is(err, lora.ErrNotLoaded):
		return router.ReasonAdapterNotLoaded
	case errors.Is(err, engine.ErrUnloaded):
		return router.ReasonAdapterUnloaded
	case errors.Is(err, engine.ErrTooLong):
		return router.ReasonTooLong
	case errors.Is(err, engine.ErrClosed):
		return router.ReasonClosed
	default:
		return "WORKER_FAILED"
	}
}

func positionsProto(ps []sample.Position) []*pb.SequenceLogprobs {
	if len(ps) == 0 {
		return nil
	}
	out := make([]*pb.SequenceLogprobs, len(ps))
	for i, p := range ps {
		o := &pb.SequenceLogprobs{TokenId: p.ID, Logprob: p.Logprob, Known: p.Known}
		for _, t := range p.Top {
			o.TopIds = append(o.TopIds, t.ID)
			o.TopLogprobs = append(o.TopLogprobs, t.Logprob)
		}
		for _, t := range p.Requested {
			o.RequestedLogprobs = append(o.RequestedLogprobs, t.Logprob)
		}
		out[i] = o
	}
	return out
}

func statusProto(s *engine.Status) *pb.WorkerStatus {
	return &pb.WorkerStatus{
		Step: s.Step, Running: int32(s.Running), Waiting: int32(s.Waiting),
		KvPagesUsed: int32(s.PagesUsed), KvPagesTotal: int32(s.Pages), ResidentAdapters: s.Resident,
		StepRows: int32(s.Rows), StepAdapters: int32(s.Adapters), StepBaseRows: int32(s.BaseRows),
		StepSeconds: s.Duration.Seconds(), MaxStepAdapters: int32(s.MaxAdapters), Preemptions: s.Preemptions, Draining: s.Draining,
		AdapterMemory: adapterMemory(&s.LoRA),
		Memory: &pb.DeviceMemory{
			Total: s.Memory.Total, Cache: s.Memory.Cache, Adapters: s.Memory.Adapters, Free: s.Memory.Free,
			ToAdapters: s.Memory.ToAdapters, ToCache: s.Memory.ToCache,
		},
	}
}

func adapterMemory(t *lora.Totals) *pb.AdapterMemory {
	return &pb.AdapterMemory{
		HostBytes: t.HostBytes, HostLimit: t.HostLimit, DeviceBytes: t.DeviceBytes, Loads: t.Loads, Evictions: t.Evictions,
		LoadBounds: lora.TimeBounds[:], LoadCounts: t.LoadTime.Classes[:], LoadSeconds: t.LoadTime.Sum,
	}
}

// Router side: router → proto → router.

func sequenceProto(s *router.Sequence) *pb.Sequence {
	p := s.Sampling
	t := &pb.TokenSampling{
		MaxTokens: int32(s.MaxTokens), MinTokens: int32(p.MinTokens), Temperature: p.Temperature, TopP: p.TopP,
		TopK: int32(p.TopK), MinP: p.MinP, FrequencyPenalty: p.FrequencyPenalty, PresencePenalty: p.PresencePenalty,
		RepetitionPenalty: p.RepetitionPenalty, LogitBias: p.LogitBias, StopTokenIds: p.StopTokenIDs,
		IgnoreEos: p.IgnoreEOS, Seed: s.Seed, PromptLogprobStart: -1,
	}
	if lp := s.Logprobs; lp != nil {
		t.Logprobs, t.PromptLogprobStart, t.TopLogprobs, t.LogprobTokenIds = true, int32(lp.PromptStart), int32(lp.Top), lp.TokenIDs
	}
	return &pb.Sequence{Id: s.ID, TokenIds: s.IDs, AdapterDigest: s.Digest, Sampling: t, Generated: int32(s.Generated)}
}

func routerOutputs(m *pb.ConnectResponse, requested func(id uint64) []int32) router.StepOutputs {
	out := router.StepOutputs{Outputs: make([]router.SequenceOutput, len(m.GetOutputs()))}
	for i, o := range m.GetOutputs() {
		ids := requested(o.GetId())
		r := router.SequenceOutput{
			ID: o.GetId(), IDs: o.GetTokenIds(), StopToken: -1, Error: o.GetError(), ErrorReason: o.GetErrorReason(),
			CachedTokens: int(o.GetCachedTokens()), Logprobs: routerPositions(o.GetLogprobs(), ids),
			PromptLogprobs: routerPositions(o.GetPromptLogprobs(), ids), Finish: routerReason(o.GetFinish()),
		}
		if o.StopTokenId != nil {
			r.StopToken = o.GetStopTokenId()
		}
		out.Outputs[i] = r
	}
	for _, d := range m.GetDevices() {
		out.Devices = append(out.Devices, deviceState(d))
	}
	out.Adapters = adapterCounts(m.GetAdapters())
	if s := m.GetStatus(); s != nil {
		out.Status = &router.GroupStatus{
			Step: s.GetStep(), Running: int(s.GetRunning()), Waiting: int(s.GetWaiting()),
			KVPagesUsed: int(s.GetKvPagesUsed()), KVPages: int(s.GetKvPagesTotal()), Resident: s.GetResidentAdapters(),
			StepRows: int(s.GetStepRows()), StepAdapters: int(s.GetStepAdapters()), StepBaseRows: int(s.GetStepBaseRows()),
			StepSeconds: s.GetStepSeconds(), MaxStepAdapters: int(s.GetMaxStepAdapters()), Preemptions: s.GetPreemptions(), Draining: s.GetDraining(),
			Adapters: adapterState(s.GetAdapterMemory()), Memory: memoryState(s.GetMemory()),
		}
		if p := s.GetPlans(); p != nil {
			out.Status.Plans = router.PlanTimes{Bounds: p.GetBounds(), Counts: p.GetCounts(), Seconds: p.GetSeconds()}
		}
	}
	return out
}

func memoryState(m *pb.DeviceMemory) router.DeviceMemory {
	return router.DeviceMemory{
		Total: m.GetTotal(), Cache: m.GetCache(), Adapters: m.GetAdapters(), Free: m.GetFree(),
		ToAdapters: m.GetToAdapters(), ToCache: m.GetToCache(),
	}
}

func adapterState(m *pb.AdapterMemory) router.AdapterMemory {
	return router.AdapterMemory{
		HostBytes: m.GetHostBytes(), HostLimit: m.GetHostLimit(), DeviceBytes: m.GetDeviceBytes(), Loads: m.GetLoads(), Evictions: m.GetEvictions(),
		LoadBounds: m.GetLoadBounds(), LoadCounts: m.GetLoadCounts(), LoadSeconds: m.GetLoadSeconds(),
	}
}

func routerReason(r pb.FinishReason) router.FinishReason {
	switch r {
	case pb.FinishReason_FINISH_REASON_STOP:
		return router.FinishStop
	case pb.FinishReason_FINISH_REASON_LENGTH:
		return router.FinishLength
	case pb.FinishReason_FINISH_REASON_ABORT:
		return router.FinishAbort
	default:
		return router.FinishNone
	}
}

func routerPositions(ps []*pb.SequenceLogprobs, requested []int32) []router.PositionLogprobs {
	if len(ps) == 0 {
		return nil
	}
	out := make([]router.PositionLogprobs, len(ps))
	for i, p := range ps {
		out[i].TokenLogprob = router.TokenLogprob{ID: p.GetTokenId(), Logprob: p.GetLogprob(), Known: p.GetKnown()}
		for j, id := range p.GetTopIds() {
			if j < len(p.GetTopLogprobs()) {
				out[i].Top = append(out[i].Top, router.TokenLogprob{ID: id, Logprob: p.GetTopLogprobs()[j], Known: true})
			}
		}
		for j, lp := range p.GetRequestedLogprobs() {
			if j < len(requested) {
				out[i].Requested = append(out[i].Requested, router.TokenLogprob{ID: requested[j], Logprob: lp, Known: true})
			}
		}
	}
	return out
}
