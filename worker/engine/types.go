package engine

import (
	"errors"
	"time"

	"chorale/internal/eviction"
	"chorale/worker/lora"
	"chorale/worker/sample"
)

// Errors of the engine.
var (
	// ErrClosed reports an engine that has stopped.
	ErrClosed = errors.New("worker engine is closed")
	// ErrRequest reports a request that the router should not have sent.
	ErrRequest = errors.New("bad sequence")
	// ErrTooLong reports a sequence longer than context or cache.
	ErrTooLong = errors.New("sequence does not fit the context")
	// ErrUnloaded ends sequences whose adapter is removed by force.
	ErrUnloaded = errors.New("adapter was unloaded")
	// ErrStep ends the sequences of a step that the device failed.
	ErrStep = errors.New("forward pass failed")
	// ErrOptions reports options that contradict each other.
	ErrOptions = errors.New("worker engine options")
)

// Options bound an engine.
type Options struct {
	// MaxBatchTokens is the most rows of a step: decode tokens and prompt
	// chunks together (SGLang's chunked prefill size).
	MaxBatchTokens int
	// MaxRunning is the most sequences that run at once.
	MaxRunning int
	// MaxAdapters is the most distinct adapters in a step.
	MaxAdapters int
	// MaxResident is the most adapters on the device, at least MaxAdapters; 0:
	// as many as memory allows.
	MaxResident int
	// MaxHostBytes bounds the adapters in host memory; 0: no bound.
	MaxHostBytes int64
	// Eviction is which idle adapter leaves the device first.
	Eviction eviction.Policy
	// StarveSteps is how many steps an adapter waits for a place on the device
	// before one in use is drained for it.
	StarveSteps int
	// Pages is the most pages of the key/value cache, kv.PageSize tokens each,
	// rounded up to whole groups; 0: as many as the pool allows.
	Pages int
	// MemoryBytes is the size of the pool that cache and adapters share; 0 is
	// MemFraction of a device's memory less all that is in use by then, or what
	// Pages take where the device is the host.
	MemoryBytes int64
	// MemFraction is the share of a device's memory that weights, buffers and the
	// pool take together; 0 is 0.9.
	MemFraction float64
	// EOS are the model's end tokens.
	EOS []int32
	// Context bounds prompt and answer together; 0 is the model's.
	Context int
	// Sharers is how many engines or ranks take their memory of the same device;
	// 0 is 1.
	Sharers int
	// Ranks are the others of a tensor-parallel group; nil: there are none.
	Ranks Ranks
}

// Reason says why a sequence ended.
type Reason uint8

// The reasons.
const (
	Running Reason = iota
	Stop           // an end or stop token
	Length         // MaxTokens or the end of context or cache
	Abort          // by request, or failed: Output.Err
)

// Logprobs asks for log probabilities.
type Logprobs struct {
	// PromptStart is the first prompt position to report, -1 for none.
	PromptStart int
	Top         int
	IDs         []int32
}

// Request is a sequence to compute.
type Request struct {
	// ID is the caller's, unique on its connection.
	ID uint64
	// Tokens are the prompt and, at the end, Generated tokens of the answer
	// that were made before (a continuation).
	Tokens    []int32
	Generated int
	// Adapter is a digest in host memory; "" is the base model.
	Adapter string
	Params  sample.Params
	// MaxTokens bounds the whole answer, Generated included.
	MaxTokens int
	StopIDs   []int32
	IgnoreEOS bool
	Logprobs  *Logprobs // nil: none
}

// Output is what a step brought a sequence.
type Output struct {
	ID             uint64
	Tokens         []int32
	Logprobs       []sample.Position
	PromptLogprobs []sample.Position
	// Cached counts prompt tokens served from the prefix cache.
	Cached int
	Reason Reason
	// StopID is the token that ended it, -1 for none.
	StopID int32
	Err    error
}

// Status is the engine's state after a step.
type Status struct {
	Step             uint64
	Running, Waiting int
	PagesUsed, Pages int
	Resident         []string
	// Rows, Adapters and BaseRows of the last step: its rows, distinct adapters
	// (the base not counted), and rows of the base model.
	Rows, Adapters, BaseRows int
	Duration                 time.Duration
	// MaxAdapters is the most distinct adapters any step has had.
	MaxAdapters int
	Preemptions uint64
	// Draining asks for no new sequences.
	Draining bool
	// LoRA is the adapters' memory and comings and goings.
	LoRA lora.Totals
	// Memory is the pool that cache and adapters share.
	Memory MemoryStatus
}

// Message is one step's outputs for one connection.
type Message struct {
	Outputs []Output
	Status  Status
}
