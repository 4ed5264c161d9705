package source

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Errors of this package. Those that are made of another are kinds of it:
// errors.Is finds both.
var (
	// ErrNotFound marks a source that is not there, or that is not allowed.
	ErrNotFound = errors.New("adapter source not found")
	// ErrInvalid marks a source that is not a complete adapter.
	ErrInvalid = errors.New("not a PEFT adapter")
	// ErrUnsupported marks an adapter in a form that is not read.
	ErrUnsupported = errors.New("unsupported adapter format")
	// ErrTooLarge marks files beyond the limits.
	ErrTooLarge = errors.New("adapter too large")
	// ErrDenied marks a source that does not let this server in.
	ErrDenied = errors.New("adapter source refuses access")
	// ErrUnavailable marks a source that cannot be reached or fails.
	ErrUnavailable = errors.New("adapter source unavailable")

	// ErrStalled marks a source that stopped sending.
	ErrStalled = fmt.Errorf("%w: it stalls", ErrUnavailable)
	// ErrLength marks a source that sends another length than it announces.
	ErrLength = fmt.Errorf("%w: its length is not what it announced", ErrUnavailable)
	// ErrChanged marks a source that changed while it was fetched.
	ErrChanged = fmt.Errorf("%w: it changed while it was being fetched; load it again", ErrUnavailable)
	// ErrPrivate marks an address that clients may not have the server connect to.
	ErrPrivate = fmt.Errorf("%w: only public addresses are allowed, without --allow-private-sources", ErrDenied)
	// ErrChecksum marks contents other than those promised or asked for.
	ErrChecksum = fmt.Errorf("%w: the checksum differs", ErrInvalid)
	// ErrArchive marks an archive that is broken, unsafe or ambiguous.
	ErrArchive = fmt.Errorf("%w: the archive cannot be used", ErrInvalid)
)

// Error tells what failed where.
type Error struct {
	// Source is as the client named it, without what may be secret.
	Source string
	// File is the adapter's file, empty for the source itself.
	File string
	Err  error
}

// Error returns `adapter "SOURCE": FILE: what`.
func (e *Error) Error() string {
	if e.File != "" {
		return fmt.Sprintf("adapter %q: %s: %v", e.Source, e.File, e.Err)
	}
	return fmt.Sprintf("adapter %q: %v", e.Source, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// fail puts err into an Error unless it is one already.
func fail(source, file string, err error) error {
	var known *Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &Error{Redact(source), file, err}
}

// Redact returns a source as it may be shown: the query of a URL is where
// signatures and tokens are.
func Redact(source string) string {
	scheme, _, ok := strings.Cut(source, "://")
	if !ok {
		return source
	}
	u, err := url.Parse(source)
	if err != nil {
		return scheme + "://…"
	}
	show := u.Scheme + "://" + u.Host + u.EscapedPath()
	if u.RawQuery != "" && scheme != "s3" {
		show += "?…"
	}
	return show
}

// Shown returns a source as lists and clients see it: exactly as it was given,
// but for what could let others in: a web address' password and query.
func Shown(source string) string {
	if scheme, _, ok := strings.Cut(source, "://"); !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return source
	}
	u, err := url.Parse(source)
	switch {
	case err != nil:
		return Redact(source)
	case u.User == nil && u.RawQuery == "":
		return source
	}
	u.User, u.RawQuery, u.ForceQuery = nil, "", false
	return u.String()
}

// temporary marks an error after which the same request may succeed.
type temporary struct{ error }

// Unwrap returns the error.
func (t temporary) Unwrap() error { return t.error }

func isTemporary(err error) bool {
	var t temporary
	return errors.As(err, &t)
}
