package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The buckets: adapters by name, the last version numbers of names that are
// gone, requests by id and their ids by age, and the registry's own numbers.
var (
	adaptersBucket = []byte("adapters")
	numbersBucket  = []byte("numbers")
	requestsBucket = []byte("requests")
	agesBucket     = []byte("request_ages")
	metaBucket     = []byte("meta")
	revisionKey    = []byte("revision")
	schemaKey      = []byte("schema")
)

// DefaultLockTimeout is how long OpenBolt waits for another process.
const DefaultLockTimeout = 2 * time.Second

// BoltOptions configure OpenBolt.
type BoltOptions struct {
	// LockTimeout, default DefaultLockTimeout.
	LockTimeout time.Duration
	// NoSync leaves out fsync. A crash of the machine may then lose or break
	// the registry: for tests.
	NoSync bool
}

// Bolt is a registry in one bbolt file.
type Bolt struct {
	db   *bolt.DB
	path string
}

var _ Store = (*Bolt)(nil)

// OpenBolt opens or creates the registry at path, and its folder. It fails
// with ErrLocked when another process has it open, with ErrReadOnly where it
// cannot write, with ErrSchema or ErrCorrupt on what it cannot read.
func OpenBolt(path string, o BoltOptions) (*Bolt, error) {
	if o.LockTimeout <= 0 {
		o.LockTimeout = DefaultLockTimeout
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, classify("open", path, err)
	}
	if err := checkSize(path); err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: o.LockTimeout, NoSync: o.NoSync, FreelistType: bolt.FreelistMapType,
	})
	if err != nil {
		return nil, classify("open", path, err)
	}
	b := &Bolt{db: db, path: path}
	if err := b.init(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return b, nil
}

func (b *Bolt) init() error {
	err := b.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{adaptersBucket, numbersBucket, requestsBucket, agesBucket, metaBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(metaBucket)
		schema, err := number(meta, schemaKey)
		switch {
		case err != nil:
			return err
		case schema > Schema:
			return fmt.Errorf("%w: %d, this version knows %d", ErrSchema, schema, Schema)
		case schema == Schema:
			return nil
		}
		if err := migrate(tx.Bucket(adaptersBucket)); err != nil {
			return err
		}
		return putNumber(meta, schemaKey, Schema)
	})
	return classify("open", b.path, err)
}

// View implements Store.
func (b *Bolt) View(fn func(Tx) error) error {
	return classify("read", b.path, b.db.View(func(tx *bolt.Tx) error {
		t, err := newBoltTx(tx)
		if err != nil {
			return err
		}
		return fn(t)
	}))
}

// Update implements Store.
func (b *Bolt) Update(fn func(Tx) error) (uint64, error) {
	var revision uint64
	err := b.db.Update(func(tx *bolt.Tx) error {
		t, err := newBoltTx(tx)
		if err != nil {
			return err
		}
		if err := fn(t); err != nil {
			return err
		}
		if revision = t.revision; !t.changed {
			return nil
		}
		revision++
		return putNumber(tx.Bucket(metaBucket), revisionKey, revision)
	})
	return revision, classify("write", b.path, err)
}

// Close implements Store.
func (b *Bolt) Close() error { return classify("close", b.path, b.db.Close()) }

type boltTx struct {
	tx       *bolt.Tx
	adapters *bolt.Bucket
	revision uint64
	changed  bool
}

func newBoltTx(tx *bolt.Tx) (*boltTx, error) {
	revision, err := number(tx.Bucket(metaBucket), revisionKey)
	return &boltTx{tx: tx, adapters: tx.Bucket(adaptersBucket), revision: revision}, err
}

func (t *boltTx) Bump() { t.changed = true }

func (t *boltTx) Revision() uint64 { return t.revision }

func (t *boltTx) Get(name string) (Record, bool, error) {
	v := t.adapters.Get([]byte(name))
	if v == nil {
		return Record{}, false, nil
	}
	r, err := decode(name, v)
	return r, err == nil, err
}

func (t *boltTx) List() ([]Record, error) {
	var records []Record
	err := t.adapters.ForEach(func(k, v []byte) error {
		r, err := decode(string(k), v)
		records = append(records, r)
		return err
	})
	return records, err
}

func (t *boltTx) Put(r Record) error {
	v, err := encode(r)
	if err != nil {
		return err
	}
	t.changed = true
	return t.adapters.Put([]byte(r.Name), v)
}

func (t *boltTx) Delete(name string) error {
	r, ok, err := t.get(name)
	if err != nil || !ok {
		return err
	}
	t.changed = true
	if r.LastNumber > 0 {
		if err := putNumber(t.tx.Bucket(numbersBucket), []byte(name), r.LastNumber); err != nil {
			return err
		}
	}
	return t.adapters.Delete([]byte(name))
}

// get is Get for names that bbolt would refuse to look up, too.
func (t *boltTx) get(name string) (Record, bool, error) {
	if name == "" {
		return Record{}, false, nil
	}
	return t.Get(name)
}

func (t *boltTx) LastNumber(name string) (uint64, error) {
	r, ok, err := t.get(name)
	if ok || err != nil {
		return r.LastNumber, err
	}
	return number(t.tx.Bucket(numbersBucket), []byte(name))
}

func (t *boltTx) Request(id string) (Request, bool, error) {
	v := t.tx.Bucket(requestsBucket).Get([]byte(id))
	if v == nil {
		return Request{}, false, nil
	}
	var r Request
	if err := json.Unmarshal(v, &r); err != nil {
		return Request{}, false, fmt.Errorf("request %q: %w: %w", id, ErrCorrupt, err)
	}
	return r, true, nil
}

func (t *boltTx) PutRequest(r Request) error {
	requests, ages := t.tx.Bucket(requestsBucket), t.tx.Bucket(agesBucket)
	if r.ID == "" || requests.Get([]byte(r.ID)) != nil {
		return fmt.Errorf("request %q: no id, or it is remembered already", r.ID)
	}
	v, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("request %q: %w", r.ID, err)
	}
	t.changed = true
	if err := requests.Put([]byte(r.ID), v); err != nil {
		return err
	}
	age, err := ages.NextSequence()
	if err != nil {
		return err
	}
	if err := ages.Put(binary.BigEndian.AppendUint64(nil, age), []byte(r.ID)); err != nil || age <= MaxRequests {
		return err
	}
	// Ids are never forgotten but here, one for each that comes: so the oldest
	// has this number.
	oldest := binary.BigEndian.AppendUint64(nil, age-MaxRequests)
	if err := requests.Delete(ages.Get(oldest)); err != nil {
		return err
	}
	return ages.Delete(oldest)
}

func number(b *bolt.Bucket, key []byte) (uint64, error) {
	switch v := b.Get(key); len(v) {
	case 0:
		return 0, nil
	case 8:
		return binary.BigEndian.Uint64(v), nil
	default:
		return 0, fmt.Errorf("%w: %s has %d bytes", ErrCorrupt, key, len(v))
	}
}

func putNumber(b *bolt.Bucket, key []byte, n uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, n))
}

// classify adds the file and this package's sentinel to bbolt's errors.
// Errors of a transaction's own function pass through with their sentinels.
func classify(op, path string, err error) error {
	var kind error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bolterrors.ErrTimeout):
		kind = ErrLocked
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch),
		errors.Is(err, bolterrors.ErrChecksum):
		kind = ErrCorrupt
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		kind = ErrClosed
	case errors.Is(err, bolterrors.ErrDatabaseReadOnly), errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		kind = ErrReadOnly
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		kind = ErrFull
	default:
		return fmt.Errorf("store: %s %s: %w", op, path, err)
	}
	return fmt.Errorf("store: %s %s: %w: %w", op, path, kind, err)
}
