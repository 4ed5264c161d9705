package router

import (
	"fmt"
	"time"
)

// ModelInfo describes the base model as clients see it.
type ModelInfo struct {
	// Name is the served name; Path where the model was loaded from.
	Name, Path      string
	HasChatTemplate bool
	// Group describes the model as the worker groups reported it.
	Group GroupInfo
	// LoRAEnabled is false with --enable-lora=false.
	LoRAEnabled bool
	Created     time.Time
}

// IsBase tells whether a name means the base model: its served name, its path
// or "default". No adapter may be called so.
func (m ModelInfo) IsBase(name string) bool {
	return name == "default" || name != "" && (name == m.Name || name == m.Path)
}

// GroupState is the router's picture of one worker group.
type GroupState struct {
	Address   string
	Connected bool
	Err       error
	Info      GroupInfo
	Status    GroupStatus
	// Devices are the group's GPUs, none on the CPU.
	Devices []DeviceState
	// InFlight counts this router's sequences on the group.
	InFlight int
}

// Unhealthy says what is wrong with the group's devices; empty is well.
func (g *GroupState) Unhealthy() string { return unhealthy(g.Devices) }

// Usable tells whether the group can be given sequences.
func (g *GroupState) Usable() bool {
	return g.Connected && g.Unhealthy() == "" && !g.Status.Draining
}

func unhealthy(ds []DeviceState) string {
	for _, d := range ds {
		if d.Unhealthy != "" {
			return fmt.Sprintf("GPU %d (%s): %s", d.Index, d.Name, d.Unhealthy)
		}
	}
	return ""
}

// ServerState is the router's state.
type ServerState struct {
	Version                        string
	Started                        time.Time
	Groups                         []GroupState
	Queued, Running                int
	Requests                       uint64
	PromptTokens, CompletionTokens uint64
	CatalogueRevision              uint64
	// RunningAdapters and WaitingAdapters are the digests with sequences under
	// way and in the queue, sorted.
	RunningAdapters, WaitingAdapters []string
	Draining                         bool
	// Missing is an adapter that is to be preloaded and that some group has not had
	// on its device yet; empty: none.
	Missing string
}
