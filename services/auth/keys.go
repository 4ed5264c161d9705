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
	// Inference calls generate or describe.
	Inference
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
	case Open:
		return "open"
	default:
		return fmt.Sprintf("Level(%d)", uint8(l))
	}
}

type digest = [sha256.Size]byte

// Keys are the configured keys. The zero value has none: everything is open.
type Keys struct {
	api, admin *digest
}

// NewKeys takes the API key and the admin key; an empty string is none.
func NewKeys(api, admin string) *Keys {
	return &Keys{api: hash(api), admin: hash(admin)}
}

func hash(key string) *digest {
	if key == "" {
		return nil
	}
	d := sha256.Sum256([]byte(key))
	return &d
}

// Check says whether the holder of an Authorization header's value may make a
// call: nil, status.ErrUnauthenticated or status.ErrPermission.
func (k *Keys) Check(level Level, authorization string) error {
	if k == nil || level == Open || (k.api == nil && k.admin == nil) {
		return nil
	}
	if level == Inference && k.api == nil {
		return nil
	}
	given := sha256.Sum256([]byte(bearer(authorization)))
	// Both are compared always: the time tells nothing about which matched.
	isAPI, isAdmin := equal(k.api, &given), equal(k.admin, &given)
	switch {
	case isAdmin:
		return nil
	case isAPI && (level == Inference || k.admin == nil):
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
