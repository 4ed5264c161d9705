package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Errors of this package.
var (
	// ErrLocked marks a registry that another process has open.
	ErrLocked = errors.New("registry is held by another process")
	// ErrSchema marks a registry or a record written by a newer version.
	ErrSchema = errors.New("registry has a newer schema")
	// ErrCorrupt marks a registry that cannot be read.
	ErrCorrupt = errors.New("registry is corrupt")
	// ErrReadOnly marks a registry that cannot be written.
	ErrReadOnly = errors.New("registry is read-only")
	// ErrFull marks a full disk.
	ErrFull = errors.New("disk full")
	// ErrClosed marks a use after Close.
	ErrClosed = errors.New("registry is closed")
)

// Schema is the version of Record that this package writes. It reads 1, too:
// see migrate.go.
const Schema = 2

// State is what is wanted of an adapter, as far as it outlives a restart.
// Whether it is on the workers is not stored: they are asked.
type State string

// The stored states.
const (
	// StateFetching reserves a name while its first content is fetched and
	// validated.
	StateFetching State = "fetching"
	// StateLive has at least one version; Version.Loaded tells which of them are
	// wanted on the workers.
	StateLive State = "live"
	// StateDraining is on its way out: refused to new requests.
	StateDraining State = "draining"
	// StateFailed is a load that a crash interrupted.
	StateFailed State = "failed"
)

// Record is one adapter name.
type Record struct {
	Schema int    `json:"v"`
	Name   string `json:"name"`
	State  State  `json:"state"`
	// Message says why, for StateFailed.
	Message string `json:"message,omitempty"`
	// Owner is the tenant that it belongs to, as the operator says.
	Owner string `json:"owner,omitempty"`
	// Source is where the first version is fetched from, while there is none.
	Source string            `json:"source,omitempty"`
	Pinned bool              `json:"pinned,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	// Versions are the contents that the name has or had, by number.
	Versions []Version `json:"versions,omitempty"`
	// Current is the version that answers, 0 for none. Line are those that were
	// current before and would be again by rolling back, the latest last.
	Current uint64   `json:"current,omitempty"`
	Line    []uint64 `json:"line,omitempty"`
	// LastNumber is the largest version number that was ever given under the name.
	LastNumber uint64 `json:"last_number,omitempty"`
	// Generation is the revision of the last change that a client asked for.
	Generation uint64 `json:"generation"`
	// Force and DrainTimeout say how StateDraining treats sequences that run.
	Force        bool          `json:"force,omitempty"`
	DrainTimeout time.Duration `json:"drain_timeout,omitempty"`
	// History are the last changes of state, oldest first.
	History []Transition `json:"history,omitempty"`
	Created time.Time    `json:"created"`
	Updated time.Time    `json:"updated"`
}

// Version is one content of a name.
type Version struct {
	// Number is given by Update where it is 0: one more than the name ever had,
	// also across removals of the name.
	Number uint64 `json:"n"`
	// Loaded is wanted on all workers.
	Loaded bool `json:"loaded,omitempty"`
	// Weight is the share of new requests in percent, of versions beside the
	// current one.
	Weight int `json:"weight,omitempty"`
	// Digest is the adapter's identity, over configuration and weights.
	Digest string `json:"digest"`
	// ConfigBlob and WeightsBlob are the SHA-256 of the two files.
	ConfigBlob  string `json:"config_blob"`
	WeightsBlob string `json:"weights_blob"`
	// Source is where it came from, exactly as it was given.
	Source string            `json:"source"`
	Labels map[string]string `json:"labels,omitempty"`
	// MaxRank is the largest of Ranks, which are the distinct ranks of its
	// modules; SumRanks is over all modules.
	MaxRank       int      `json:"max_rank,omitempty"`
	Ranks         []int    `json:"ranks,omitempty"`
	SumRanks      int      `json:"sum_ranks,omitempty"`
	TargetModules []string `json:"target_modules,omitempty"`
	// SizeBytes is the length of the weights file.
	SizeBytes int64     `json:"size_bytes,omitempty"`
	BaseModel string    `json:"base_model,omitempty"`
	Created   time.Time `json:"created"`
	LastUsed  time.Time `json:"last_used,omitzero"`
	// Turn orders uses: the larger, the later, whatever the clock said. 0: not
	// known, earlier than all others.
	Turn uint64 `json:"turn,omitempty"`
}

// Transition is a change of state: of a version, or of the name where Version
// is 0. State is spelt as the adapter manager does.
type Transition struct {
	At      time.Time `json:"at"`
	State   string    `json:"state"`
	Version uint64    `json:"version,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// Request is a change that a client gave an id, so that it may ask again.
type Request struct {
	ID string `json:"id"`
	// Fingerprint tells requests apart that have one id.
	Fingerprint string `json:"fingerprint"`
	// Name is the adapter that was changed; Removed tells that it is gone.
	Name    string    `json:"name"`
	Removed bool      `json:"removed,omitempty"`
	At      time.Time `json:"at"`
}

// MaxRequests is how many requests a registry remembers, the latest.
const MaxRequests = 4096

// Store is a registry. It is safe for concurrent use.
type Store interface {
	// View runs fn on a consistent state. fn must not change anything.
	View(fn func(Tx) error) error
	// Update runs fn and applies its changes all or not at all: when fn or the
	// store fails, nothing has changed. It returns the revision after. A store
	// that several managers share may run fn again on newer state, so fn must
	// have no effects but those on tx.
	Update(fn func(Tx) error) (revision uint64, err error)
	// Close waits for running transactions and gives the registry back.
	Close() error
}

// Tx is a transaction, valid until its function returns.
type Tx interface {
	// Revision counts the transactions that changed something before this one.
	Revision() uint64
	// Get returns the record of a name; ok is false when there is none.
	Get(name string) (r Record, ok bool, err error)
	// List returns all records by name.
	List() ([]Record, error)
	// Put adds or replaces the record of r.Name.
	Put(r Record) error
	// Delete removes a name; one that is not there is no error. Its LastNumber
	// is remembered.
	Delete(name string) error
	// LastNumber returns the largest version number that a name ever had, 0 for
	// none.
	LastNumber(name string) (uint64, error)
	// Request returns a remembered request; ok is false when there is none.
	Request(id string) (r Request, ok bool, err error)
	// PutRequest remembers a request whose id is not remembered, and forgets the
	// oldest beyond MaxRequests.
	PutRequest(r Request) error
	// Bump lets the revision grow although nothing else changes.
	Bump()
}

// encode returns r's stored form.
func encode(r Record) ([]byte, error) {
	if r.Name == "" {
		return nil, fmt.Errorf("store: record without a name")
	}
	r.Schema = Schema
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("store: record %q: %w", r.Name, err)
	}
	return b, nil
}

// decode is encode's inverse; name is the key that b was found under.
func decode(name string, b []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("store: record %q: %w: %w", name, ErrCorrupt, err)
	}
	if r.Schema == 1 {
		var old record1
		if err := json.Unmarshal(b, &old); err != nil {
			return Record{}, fmt.Errorf("store: record %q: %w: %w", name, ErrCorrupt, err)
		}
		r = old.upgrade()
	}
	switch {
	case r.Schema > Schema:
		return Record{}, fmt.Errorf("store: record %q: %w: %d, this version knows %d", name, ErrSchema, r.Schema, Schema)
	case r.Schema < 1 || r.Name != name:
		return Record{}, fmt.Errorf("store: record %q: %w: schema %d, name %q", name, ErrCorrupt, r.Schema, r.Name)
	}
	return r, nil
}
