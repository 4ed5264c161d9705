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

// Schema is the version of Record that this package writes.
const Schema = 1

// State is what is wanted of an adapter, as far as it outlives a restart.
// Whether it is on the workers is not stored: they are asked.
type State string

// The stored states.
const (
	// StateFetching reserves a name while its content is fetched and validated.
	StateFetching State = "fetching"
	// StateReady is stored and valid, and not wanted on the workers.
	StateReady State = "ready"
	// StateLoaded is wanted on all workers.
	StateLoaded State = "loaded"
	// StateDraining is on its way out: refused to new requests.
	StateDraining State = "draining"
	// StateFailed is a load that a crash interrupted.
	StateFailed State = "failed"
)

// Record is one adapter.
type Record struct {
	Schema int    `json:"v"`
	Name   string `json:"name"`
	State  State  `json:"state"`
	// Message says why, for StateFailed.
	Message string `json:"message,omitempty"`
	// Digest is the adapter's identity, over configuration and weights.
	Digest string `json:"digest,omitempty"`
	// ConfigBlob and WeightsBlob are the SHA-256 of the two files.
	ConfigBlob  string `json:"config_blob,omitempty"`
	WeightsBlob string `json:"weights_blob,omitempty"`
	// Source is where it came from, exactly as it was given.
	Source        string            `json:"source"`
	Pinned        bool              `json:"pinned,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	MaxRank       int               `json:"max_rank,omitempty"`
	TargetModules []string          `json:"target_modules,omitempty"`
	// SizeBytes is the length of the weights file.
	SizeBytes int64  `json:"size_bytes,omitempty"`
	BaseModel string `json:"base_model,omitempty"`
	// Version grows with each load under this name, also across unloads.
	Version  uint64    `json:"version,omitempty"`
	Created  time.Time `json:"created"`
	Updated  time.Time `json:"updated"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

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
	// Delete removes a name; one that is not there is no error.
	Delete(name string) error
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
	switch {
	case r.Schema > Schema:
		return Record{}, fmt.Errorf("store: record %q: %w: %d, this version knows %d", name, ErrSchema, r.Schema, Schema)
	case r.Schema < 1 || r.Name != name:
		return Record{}, fmt.Errorf("store: record %q: %w: schema %d, name %q", name, ErrCorrupt, r.Schema, r.Name)
	}
	return r, nil
}
