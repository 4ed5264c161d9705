package adaptermgr

import (
	"errors"
	"fmt"
	"strings"

	"chorale/adaptermgr/blob"
	"chorale/adaptermgr/source"
	"chorale/adaptermgr/store"
	"chorale/internal/peft"
	"chorale/internal/safetensors"
)

// Errors of this package. Clients of other servers match words of some of
// them ("already loaded", "never been loaded", "incompatible", "starvation",
// "not enabled"): those words stay.
var (
	// ErrNotFound marks a name that is not registered.
	ErrNotFound = errors.New("has never been loaded")
	// ErrVersionNotFound marks a version that its name does not have (any more).
	ErrVersionNotFound = errors.New("has no such version")
	// ErrVersionInUse marks a version that answers and so cannot be removed.
	ErrVersionInUse = errors.New("answers with this version")
	// ErrNoEarlier marks a roll-back with nothing to go back to.
	ErrNoEarlier = errors.New("has no earlier version to go back to")
	// ErrWeight marks a share of requests that cannot be given.
	ErrWeight = errors.New("weight not allowed")
	// ErrStale marks a change that was asked for on an older state.
	ErrStale = errors.New("was changed since it was read")
	// ErrRequestID marks a request id that was used for another request.
	ErrRequestID = errors.New("request id was used for another request")
	// ErrCompacted marks a revision that a watch cannot go on from.
	ErrCompacted = errors.New("changes since this revision are not kept")
	// ErrExists marks a name that is taken.
	ErrExists = errors.New("is already loaded")
	// ErrName marks a name that is not allowed.
	ErrName = errors.New("name not allowed")
	// ErrLabel marks labels that are not allowed.
	ErrLabel = errors.New("label not allowed")
	// ErrInvalid marks an artifact that is broken.
	ErrInvalid = errors.New("is not a valid adapter")
	// ErrUnsupported marks an artifact of a kind that is not served: DoRA, added
	// tokens, modules_to_save, pickled weights.
	ErrUnsupported = errors.New("is not supported")
	// ErrIncompatible marks an adapter that does not fit the base model or the
	// target modules that the server allows.
	ErrIncompatible = errors.New("is incompatible with this server")
	// ErrRankTooLarge marks a rank above the limit.
	ErrRankTooLarge = errors.New("is incompatible with this server's maximum rank")
	// ErrTooLarge marks files above the size limits.
	ErrTooLarge = errors.New("is too large")
	// ErrStarvation marks a pin that would leave no place for other adapters.
	ErrStarvation = errors.New("cannot be pinned: one place in the batch must stay free to avoid starvation of other adapters")
	// ErrCapacity marks max_loaded_loras reached with nothing to push out.
	ErrCapacity = errors.New("max_loaded_loras is reached")
	// ErrHostMemory marks a worker group's memory for adapters full with nothing
	// to push out.
	ErrHostMemory = errors.New("max_loaded_lora_bytes is reached")
	// ErrDisabled marks a server that serves no adapters.
	ErrDisabled = errors.New("LoRA is not enabled")
	// ErrSourceNotFound marks a source that is not there or not allowed.
	ErrSourceNotFound = source.ErrNotFound
	// ErrSourceDenied marks a source that refuses access.
	ErrSourceDenied = source.ErrDenied
	// ErrSourceUnavailable marks a source that cannot be reached.
	ErrSourceUnavailable = source.ErrUnavailable
	// ErrDigest marks content that is not what a load asked for.
	ErrDigest = source.ErrChecksum
	// ErrDiskFull marks a full disk.
	ErrDiskFull = errors.New("disk full")
	// ErrReadOnly marks a data folder that cannot be written.
	ErrReadOnly = errors.New("storage is read-only")
	// ErrUnavailable marks workers that cannot be reached. Worker
	// implementations wrap it when the connection failed: the group is then
	// taken for lost and connected to again.
	ErrUnavailable = errors.New("worker unavailable")
	// ErrRejected is wrapped by Worker implementations when a worker refuses an
	// adapter for good.
	ErrRejected = errors.New("refused by the worker")
	// ErrUnloaded ends a load whose name was unloaded meanwhile.
	ErrUnloaded = errors.New("was unloaded while it was being loaded")
	// ErrClosed marks a manager whose Run has ended.
	ErrClosed = errors.New("adapter manager is closed")
)

// predicates are the errors whose text continues a sentence that begins with
// the adapter.
var predicates = []error{
	ErrNotFound, ErrExists, ErrInvalid, ErrUnsupported, ErrIncompatible, ErrRankTooLarge, ErrTooLarge,
	ErrStarvation, ErrUnloaded, ErrVersionNotFound, ErrVersionInUse, ErrNoEarlier, ErrStale,
}

// nameError puts the adapter's name before err.
func nameError(name string, err error) error {
	if err == nil {
		return nil
	}
	for _, p := range predicates {
		if strings.HasPrefix(err.Error(), p.Error()) {
			return fmt.Errorf("adapter %q %w", name, err)
		}
	}
	return fmt.Errorf("adapter %q: %w", name, err)
}

// kinds maps the errors of what this package uses to its own.
var kinds = []struct{ from, to error }{
	{blob.ErrFull, ErrDiskFull},
	{store.ErrFull, ErrDiskFull},
	{blob.ErrReadOnly, ErrReadOnly},
	{store.ErrReadOnly, ErrReadOnly},
	{blob.ErrTooLarge, ErrTooLarge},
	{source.ErrTooLarge, ErrTooLarge},
	{source.ErrInvalid, ErrInvalid},
	{source.ErrUnsupported, ErrUnsupported},
	{peft.ErrRank, ErrRankTooLarge},
	{peft.ErrTarget, ErrIncompatible},
	{peft.ErrShape, ErrIncompatible},
	{peft.ErrUnsupported, ErrUnsupported},
	{peft.ErrConfig, ErrInvalid},
	{peft.ErrUnmatched, ErrInvalid},
	{peft.ErrMissing, ErrInvalid},
	{peft.ErrDuplicate, ErrInvalid},
	{peft.ErrNonFinite, ErrInvalid},
	{safetensors.ErrFormat, ErrInvalid},
	{safetensors.ErrUnsupported, ErrUnsupported},
	{safetensors.ErrShape, ErrInvalid},
}

// classify adds this package's sentinel to err.
func classify(err error) error {
	for _, k := range kinds {
		if errors.Is(err, k.from) {
			return fmt.Errorf("%w: %w", k.to, err)
		}
	}
	return err
}
