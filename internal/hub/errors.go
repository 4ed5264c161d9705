package hub

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of this package, wrapped in an *Error that names the repository, the
// revision and the file.
var (
	// ErrName marks a repository, revision or file name that is not allowed.
	ErrName = errors.New("name not allowed")
	// ErrNotFound marks a repository, revision or file that the hub does not have.
	ErrNotFound = errors.New("not found")
	// ErrUnauthorized marks a missing or refused token (HTTP 401, 403).
	ErrUnauthorized = errors.New("not authorized")
	// ErrGated marks a repository whose terms the token's owner has not accepted.
	ErrGated = errors.New("access is gated")
	// ErrChecksum marks contents that differ from what the hub announced.
	ErrChecksum = errors.New("checksum differs")
	// ErrTooLarge marks contents beyond the client's size limits.
	ErrTooLarge = errors.New("too large")
	// ErrOffline marks what is not in the cache while the client is offline.
	ErrOffline = errors.New("not in the cache, and offline")
	// ErrNetwork marks a server that cannot be reached, stalls, breaks off or
	// answers with a fault of its own (HTTP 429, 5xx).
	ErrNetwork = errors.New("network")
	// ErrStalled is the ErrNetwork of a server that sends nothing for too long.
	ErrStalled = fmt.Errorf("%w: no data arrived in time", ErrNetwork)
	// ErrProtocol marks an answer that does not follow the hub's protocol.
	ErrProtocol = errors.New("unexpected answer")
)

// Error tells what failed where. Err wraps one of the package's errors, a
// context's or one of the operating system.
type Error struct {
	Repo, Revision string
	// File is the path inside the repository, empty for the repository itself.
	File string
	Err  error
}

// Error returns "hub: REPO@REVISION: FILE: what".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("hub: ")
	b.WriteString(e.Repo)
	if e.Revision != "" {
		b.WriteString("@" + e.Revision)
	}
	if e.File != "" {
		b.WriteString(": " + e.File)
	}
	b.WriteString(": " + e.Err.Error())
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// wrap puts err into an *Error unless it is one already.
func wrap(repo, revision, file string, err error) error {
	var known *Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &Error{Repo: repo, Revision: revision, File: file, Err: err}
}
