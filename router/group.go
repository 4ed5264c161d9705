package router

import "context"

// GroupInfo describes a worker group and its model.
type GroupInfo struct {
	Incarnation      string
	Version          string
	Device           string
	ModelDigest      string
	ModelType        string
	Architectures    []string
	ContextLength    int
	VocabSize        int
	Parameters       int64
	DType            string
	EOS              []int32
	Modules          []string // distinct module kinds that adapters may target
	MaxLoRAsPerBatch int
	MaxResidentLoRAs int
	MaxLoRARank      int
	MaxRunning       int
	KVPages          int
	PageSize         int
	LoRAEnabled      bool
	// Ranks are the group's processes; Restarts counts how often they were started
	// again.
	Ranks, Restarts int
}

// Sequence is one answer for a worker group to compute.
type Sequence struct {
	ID        uint64
	IDs       []int32
	Digest    string // "" is the base model
	Sampling  *Sampling
	Seed      uint64
	MaxTokens int // already cut to the context
	Logprobs  *Logprobs
	// Generated counts the tokens at the end of IDs that are answer already.
	Generated int
}

// SequenceOutput is what one step brought one sequence.
type SequenceOutput struct {
	ID             uint64
	IDs            []int32
	Logprobs       []PositionLogprobs
	PromptLogprobs []PositionLogprobs
	Finish         FinishReason
	StopToken      int32 // -1 for none
	Error          string
	ErrorReason    string
	CachedTokens   int
}

// GroupStatus is a group's state after a step.
type GroupStatus struct {
	Step                   uint64
	Running, Waiting       int
	KVPagesUsed, KVPages   int
	Resident               []string
	StepRows, StepAdapters int
	StepBaseRows           int
	StepSeconds            float64
	MaxStepAdapters        int
	Preemptions            uint64
	Draining               bool // it wants no new sequences
	Adapters               AdapterMemory
	Memory                 DeviceMemory
	Plans                  PlanTimes
}

// PlanTimes tells how long it took to hand steps to a group's other ranks:
// numbers by duration, of which class i took at most Bounds[i] seconds and the
// last one longer, and the sum of all.
type PlanTimes struct {
	Bounds  []float64
	Counts  []uint64
	Seconds float64
}

// DeviceMemory is the pool that a worker group's cache and loaded adapters share,
// in bytes, and what one took from the other.
type DeviceMemory struct {
	Total, Cache, Adapters, Free int64
	ToAdapters, ToCache          int64
}

// AdapterMemory is what a worker group's adapters take, and their comings and
// goings since its start.
type AdapterMemory struct {
	HostBytes, HostLimit, DeviceBytes int64 // HostLimit 0: no bound
	// Loads onto the device, and Evictions from it to make room.
	Loads, Evictions uint64
	// LoadCounts are the numbers of loads by duration: class i took at most
	// LoadBounds[i] seconds, the last one longer. LoadSeconds is the sum of all.
	LoadBounds  []float64
	LoadCounts  []uint64
	LoadSeconds float64
}

// AdapterCount is what happened to one adapter on a worker group since it came
// into its host memory.
type AdapterCount struct {
	Digest string
	// Since tells one stay in host memory from the next, in which all begins at 0.
	Since uint64
	// Hits are sequences whose adapter was on the device when they came, Misses the
	// others, Evictions how often it was put out to make room.
	Hits, Misses, Evictions uint64
	// LoadCounts are the numbers of loads onto the device by duration; see
	// AdapterMemory.
	LoadBounds  []float64
	LoadCounts  []uint64
	LoadSeconds float64
}

// DeviceState is a GPU of a worker group, as its driver last told of it.
type DeviceState struct {
	Index                          int // among the GPUs of its machine
	Name, UUID, PCI                string
	MemoryTotal, MemoryUsed        int64   // bytes
	Utilization, MemoryUtilization float64 // shares of the last sample, [0, 1]
	Temperature                    int     // °C
	Power, PowerLimit              float64 // W
	ECCEnabled                     bool
	// Memory errors since the driver was loaded.
	ECCCorrected, ECCUncorrected uint64
	// XIDs are the driver's error events since the worker's start.
	XIDs, LastXID uint64
	// Unhealthy says what is wrong; empty while the GPU can be used.
	Unhealthy string
}

// StepOutputs is one message of a worker group.
type StepOutputs struct {
	Outputs []SequenceOutput
	Status  *GroupStatus
	// Devices is empty in messages that do not tell of them.
	Devices []DeviceState
	// Adapters are those of which counts have changed.
	Adapters []AdapterCount
}

// Conn is a live connection to a worker group. Submit, Abort and Prefetch do not block
// on the worker and may be called from any goroutine; Recv blocks until Close.
// After an error of any of them the connection is dead and every sequence on it
// is lost to the router.
type Conn interface {
	Submit(seqs []Sequence) error
	Abort(ids []uint64) error
	// Prefetch names adapters of sequences that wait, those first whose turn comes
	// first, instead of those that were named before.
	Prefetch(digests []string) error
	Recv() (StepOutputs, error)
	Close() error
}

// Dialer reaches one worker group. The router calls it again, with back-off,
// when a connection dies.
type Dialer interface {
	// Address names the group in logs and metrics.
	Address() string
	Describe(ctx context.Context) (GroupInfo, error)
	Connect(ctx context.Context) (Conn, error)
	// Flush forgets all prefixes that the group has cached.
	Flush(ctx context.Context) error
}
