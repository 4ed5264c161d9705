package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"

	"chorale/services/status"
)

// Level is what a call needs.
type Level uint8

// The levels. The zero value is the strictest, so that a call nobody
// thought of is not open.
const (
	// Admin calls change adapters.
	Admin Level = iota
	// Inference calls generate.
	Inference
	// Describe calls tell of models and state. They need the same key.
	Describe
	// Open calls need no key: health, metrics.
	Open
)

// String names the level.
func (l Level) String() string {
	switch l {
	case Admin:
		return "admin"
	case Inference:
		return "inference"
	case Describe:
		return "describe"
	case Open:
		return "open"
	default:
		return fmt.Sprintf("Level(%d)", uint8(l))
	}
}

type digest = [sha256.Size]byte

// Surface is which calls an address takes.
type Surface uint8

// The surfaces.
const (
	// Whole takes all calls.
	Whole Surface = iota
	// NoAdmin takes none that change adapters.
	NoAdmin
	// OnlyAdmin takes none that generate.
	OnlyAdmin
)

// Keys are the configured keys, and what the address they guard takes. The zero
// value has none: everything is open.
type Keys struct {
	api, admin *digest
	surface    Surface
}

// NewKeys takes the API key and the admin key; an empty string is none.
func NewKeys(api, admin string) *Keys {
	return &Keys{api: hash(api), admin: hash(admin)}
}

// At are the same keys at an address that takes a part of the calls.
func (k *Keys) At(s Surface) *Keys {
	if k == nil {
		return &Keys{surface: s}
	}
	return &Keys{k.api, k.admin, s}
}

// Served is nil where the address takes a call, whoever makes it, and else a
// status.ErrElsewhere that says which address does.
func (k *Keys) Served(level Level) error {
	switch {
	case k == nil:
		return nil
	case k.surface == NoAdmin && level == Admin:
		return elsewhere("adapters are administered at another address (--admin-listen)")
	case k.surface == OnlyAdmin && level == Inference:
		return elsewhere("this address administers adapters; answers are generated at another")
	}
	return nil
}

func elsewhere(text string) error { return status.WithText(status.ErrElsewhere, text) }

func hash(key string) *digest {
	if key == "" {
		return nil
	}
	d := sha256.Sum256([]byte(key))
	return &d
}

// Check says whether the holder of an Authorization header's value may make a
// call: nil, status.ErrUnauthenticated or status.ErrPermission; or that it is not
// taken here, see Served.
func (k *Keys) Check(level Level, authorization string) error {
	if err := k.Served(level); err != nil {
		return err
	}
	if k == nil || level == Open || (k.api == nil && k.admin == nil) {
		return nil
	}
	if level != Admin && k.api == nil {
		return nil
	}
	given := sha256.Sum256([]byte(bearer(authorization)))
	// Both are compared always: the time tells nothing about which matched.
	isAPI, isAdmin := equal(k.api, &given), equal(k.admin, &given)
	switch {
	case isAdmin:
		return nil
	case isAPI && (level != Admin || k.admin == nil):
		return nil
	case isAPI:
		return status.ErrPermission
	default:
		return status.ErrUnauthenticated
	}
}

func equal(want, given *digest) bool {
	var none digest
	if want == nil {
		subtle.ConstantTimeCompare(none[:], given[:])
		return false
	}
	return subtle.ConstantTimeCompare(want[:], given[:]) == 1
}

// bearer gives the token of "Bearer TOKEN"; the scheme's case does not matter.
func bearer(authorization string) string {
	scheme, token, ok := strings.Cut(strings.TrimSpace(authorization), " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
