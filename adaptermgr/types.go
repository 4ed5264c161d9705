package adaptermgr

import (
	"context"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr/blob"
	"chorale/adaptermgr/source"
	"chorale/adaptermgr/store"
	"chorale/internal/eviction"
	"chorale/internal/peft"
)

// State is where an adapter is in its life; see the package comment.
type State int

// The states.
const (
	StateUnspecified State = iota
	Fetching
	Validating
	Ready
	Loading
	Loaded
	Draining
	Removed
	Failed
)

// String returns the state's name in capitals.
func (s State) String() string {
	names := [...]string{"UNSPECIFIED", "FETCHING", "VALIDATING", "READY", "LOADING", "LOADED", "DRAINING", "REMOVED", "FAILED"}
	if s < 0 || int(s) >= len(names) {
		return "UNKNOWN"
	}
	return names[s]
}

// Placement is an adapter's state on one worker group.
type Placement struct {
	// Worker is the group's address.
	Worker string
	Loaded bool
	// Error says why not, empty while it is on its way.
	Error string
}

// Adapter is a snapshot of one adapter. It is not changed after it was handed
// out, and its maps and slices are not to be changed by who got it. What it
// tells of content is that of the version that answers.
type Adapter struct {
	Name  string
	Owner string
	// Digest is peft.Digest over configuration and weights.
	Digest  string
	State   State
	Message string
	// Source is as it was given, a URL without what could be a secret in it.
	Source        string
	Pinned        bool
	Labels        map[string]string
	MaxRank       int
	TargetModules []string
	// SizeBytes is the length of the weights file.
	SizeBytes        int64
	Created, Updated time.Time
	// LastUsed is not a change that watchers hear of.
	LastUsed   time.Time
	Placements []Placement
	// Version is the number of the version that answers.
	Version   uint64
	BaseModel string
	// Etag changes with each change that a client makes.
	Etag string
	// Versions are all that are stored, by number.
	Versions []Version
	// Loading is a load of this name that runs, nil for none.
	Loading *Progress
	// History are the last changes of state, oldest first.
	History []Transition
}

// Version is one content of a name; see Adapter for fields of the same name.
type Version struct {
	Number  uint64
	Digest  string
	State   State
	Message string
	Source  string
	Labels  map[string]string
	// Weight is the share of new requests in percent; the current version's is
	// what others leave.
	Weight  int
	MaxRank int
	// Ranks are the distinct ranks of its modules, SumRanks is over all modules.
	Ranks         []int
	SumRanks      int
	TargetModules []string
	SizeBytes     int64
	BaseModel     string
	Created       time.Time
	LastUsed      time.Time
	Placements    []Placement
}

// Progress is how far a load has come.
type Progress struct {
	State  State
	Source string
	// Done and Total are bytes that were fetched, Total -1 when it is not known.
	Done, Total int64
}

// Transition is a change of state of a version, or of the name for Version 0.
type Transition struct {
	At      time.Time
	State   State
	Version uint64
	Reason  string
}

// equal compares all fields but the times of use.
func (a Adapter) equal(b Adapter) bool {
	return a.Name == b.Name && a.Owner == b.Owner && a.Digest == b.Digest && a.State == b.State && a.Message == b.Message &&
		a.Source == b.Source && a.Pinned == b.Pinned && maps.Equal(a.Labels, b.Labels) && a.MaxRank == b.MaxRank &&
		slices.Equal(a.TargetModules, b.TargetModules) && a.SizeBytes == b.SizeBytes &&
		a.Created.Equal(b.Created) && a.Updated.Equal(b.Updated) && slices.Equal(a.Placements, b.Placements) &&
		a.Version == b.Version && a.BaseModel == b.BaseModel && a.Etag == b.Etag &&
		slices.EqualFunc(a.Versions, b.Versions, Version.equal) && equalProgress(a.Loading, b.Loading) &&
		slices.EqualFunc(a.History, b.History, func(x, y Transition) bool { return x.At.Equal(y.At) && x.State == y.State && x.Version == y.Version })
}

// equal compares what can change of a version.
func (v Version) equal(b Version) bool {
	return v.Number == b.Number && v.Digest == b.Digest && v.State == b.State && v.Message == b.Message && v.Source == b.Source &&
		v.Weight == b.Weight && maps.Equal(v.Labels, b.Labels) && slices.Equal(v.Placements, b.Placements)
}

func equalProgress(a, b *Progress) bool { return a == b || a != nil && b != nil && *a == *b }

// WorkerInfo is what the manager needs to know of a worker group.
type WorkerInfo struct {
	// Incarnation changes with each start of the worker's process.
	Incarnation string
	// ModelDigest identifies the base model.
	ModelDigest string
	// Modules are those that adapters may target.
	Modules   []peft.Module
	VocabSize int
	// MaxLoRAsPerBatch and MaxLoRARank limit a step and an adapter; 0: no limit.
	MaxLoRAsPerBatch, MaxLoRARank int
	// MaxLoadedBytes bounds the weights in a group's memory; 0: no bound.
	MaxLoadedBytes int64
	LoRAEnabled    bool
	// ElementBytes is what one weight takes in its memory; 0: not known.
	ElementBytes int
	// ChunkBytes is the unit of the device's memory; 0: bytes.
	ChunkBytes int64
	// Bandwidth is that of the device's memory in bytes per second; 0: not known.
	Bandwidth float64
}

// Held is one adapter in a worker group's memory.
type Held struct {
	Digest string
	Pinned bool
}

// Inventory is what a worker group holds.
type Inventory struct {
	Incarnation string
	Adapters    []Held
}

// Worker is one worker group. Methods may be called concurrently and return
// soon after ctx ends. Errors wrap ErrUnavailable when the group could not be
// reached, ErrRejected when it refuses for good; others are retried.
type Worker interface {
	// Address names the group.
	Address() string
	// Describe tells what the group is.
	Describe(ctx context.Context) (WorkerInfo, error)
	// Push brings an adapter into the group's memory: its configuration and
	// size bytes of weights. For a digest that is there it only sets the pin,
	// and need not read weights.
	Push(ctx context.Context, p Push) error
	// Drop removes a digest. It waits until no sequence uses it; with force it
	// aborts those that do. A digest that is not there is no error.
	Drop(ctx context.Context, digest string, force bool) error
	// List tells what the group holds, adapters on their way out included.
	List(ctx context.Context) (Inventory, error)
}

// Push is one adapter on its way to a worker.
type Push struct {
	Digest string
	// Config is adapter_config.json.
	Config []byte
	// Weights reads adapter_model.safetensors, Size bytes.
	Weights io.Reader
	Size    int64
	// Pinned adapters are never evicted from device memory.
	Pinned bool
	// Sent is called whenever the worker has taken some of it, nil for nobody.
	Sent func()
}

// Source fetches artifacts; a source.Resolver does.
type Source interface {
	Fetch(ctx context.Context, name string) (*source.Artifact, error)
}

// Blobs keeps files by their SHA-256; OpenBlobs returns one.
type Blobs interface {
	// Stage reads r into a temporary file.
	Stage(ctx context.Context, r io.Reader, limit int64) (Staged, error)
	// Open opens a file; OpenVerified one whose bytes are those of its digest.
	Open(digest string) (*os.File, error)
	OpenVerified(digest string) (*os.File, error)
	Has(digest string) bool
	Remove(digest string) error
	List() ([]string, error)
}

// Staged is a temporary file that Commit gives its name.
type Staged interface {
	Path() string
	Digest() string
	Size() int64
	Commit() error
	Discard() error
}

// OpenBlobs opens a blob store for Options. Open the registry first: its lock
// tells whether another process is at work in the data folder.
func OpenBlobs(dir string) (Blobs, error) { return OpenBlobsWithin(dir, nil) }

// OpenBlobsWithin is OpenBlobs with a quota for the bytes that are stored.
func OpenBlobsWithin(dir string, q *blob.Quota) (Blobs, error) {
	s, err := blob.OpenWithin(dir, q)
	if err != nil {
		return nil, classify(err)
	}
	return blobStore{s}, nil
}

// blobStore makes blob.Store's *Staged the interface.
type blobStore struct{ *blob.Store }

func (b blobStore) Stage(ctx context.Context, r io.Reader, limit int64) (Staged, error) {
	g, err := b.Store.Stage(ctx, r, limit)
	if err != nil {
		return nil, err
	}
	return g, nil
}

// Options configure a Manager.
type Options struct {
	// Registry, Blobs and Source are required.
	Registry store.Store
	Blobs    Blobs
	Source   Source
	// Workers are the groups to serve, of one base model.
	Workers []Worker
	// Log, nil: silent.
	Log *zap.Logger

	// Disabled refuses all loads.
	Disabled bool
	// Limits bound rank and target modules of adapters, beside what workers say.
	Limits peft.Limits
	// MaxLoaded is max_loaded_loras: how many adapters may be loaded at once, each
	// version of a name counting for itself; 0: any.
	MaxLoaded int
	// Eviction is which of them is pushed out: with LRU the one used longest ago,
	// with LFU the one used least of late. A use is a second in which a router had
	// requests for it, or a load.
	Eviction eviction.Policy
	// MaxVersions is how many versions of a name stay stored, default 8; those
	// that answer are never removed for it.
	MaxVersions int

	// Now is the clock whose times are shown and stored, default time.Now. Nothing
	// is ordered or timed by it, so that it may jump.
	Now func() time.Time

	// WorkerTimeout is how long a load waits while no group can take it,
	// default 10 s.
	WorkerTimeout time.Duration
	// AckTimeout is how long a group may say nothing of an adapter before those
	// who wait go on without it, default 1 min. It may be longer than a step.
	AckTimeout time.Duration
	// CallTimeout bounds Describe, default 5 s.
	CallTimeout time.Duration
	// PollInterval is how often groups are asked what they hold, default 2 s.
	PollInterval time.Duration
	// RetryMin and RetryMax bound the back-off of connects and pushes, default
	// 200 ms and 15 s.
	RetryMin, RetryMax time.Duration
	// MaxStaging bounds the loads that are copied and checked at once, default 4.
	MaxStaging int
	// MaxPushes bounds the pushes to one group at once, default 2.
	MaxPushes int
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&o.WorkerTimeout, 10 * time.Second},
		{&o.AckTimeout, time.Minute},
		{&o.CallTimeout, 5 * time.Second},
		{&o.PollInterval, 2 * time.Second},
		{&o.RetryMin, 200 * time.Millisecond},
		{&o.RetryMax, 15 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	if o.MaxVersions <= 0 {
		o.MaxVersions = 8
	}
	if o.MaxStaging <= 0 {
		o.MaxStaging = 4
	}
	if o.MaxPushes <= 0 {
		o.MaxPushes = 2
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
}
