// Package face holds what the HTTP faces share: what they need of the router,
// how names become adapters, how sampling values are checked, how token ids
// are shown.
package face

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"unicode/utf8"

	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"chorale/internal/tokenizer"
	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/router"
	"chorale/services/status"
)

// Router is what the faces need of the router.
type Router interface {
	// Submit validates and enqueues all requests, or none and says why, often
	// with a *router.FieldError.
	Submit(ctx context.Context, reqs []*router.Request) ([]*router.Handle, error)
	// Abort ends the requests with an id, or all, and says how many.
	Abort(id string, all bool) int
	Encode(p router.Prompt, addSpecial bool) ([]int32, error)
	Model() router.ModelInfo
	State() router.ServerState
	Catalogue() *router.Catalogue
	// FlushCache forgets the prefixes that worker groups have cached.
	FlushCache(ctx context.Context) error
	// WaitRevision waits until the router has seen the registry's revision.
	WaitRevision(ctx context.Context, rev uint64) error
}

// Tokens is what the faces need of the tokenizer.
type Tokens interface {
	Decode(ids []int32, o tokenizer.DecodeOptions) string
	Token(id int32) (string, bool)
	TokenBytes(id int32) []byte
	VocabSize() int
}

// NoTokens stands for the tokenizer of a server without one: ids have no text.
type NoTokens struct {
	// Vocab is the model's number of tokens, 0 until a worker group has told it;
	// then no id is refused, for no request is served either.
	Vocab func() int
}

// NoText tells that there is no tokenizer.
func (NoTokens) NoText() {}

// Decode gives no text.
func (NoTokens) Decode([]int32, tokenizer.DecodeOptions) string { return "" }

// Token knows none.
func (NoTokens) Token(int32) (string, bool) { return "", false }

// TokenBytes gives none.
func (NoTokens) TokenBytes(int32) []byte { return nil }

// VocabSize is the model's.
func (n NoTokens) VocabSize() int { return cmp.Or(n.Vocab(), math.MaxInt32) }

// Deps are what every face is made of.
type Deps struct {
	Router Router
	Tokens Tokens
	// Adapters loads and unloads; nil where no adapter manager is configured.
	Adapters choralev1.AdapterServiceClient
	Version  string
	// Log must not be nil.
	Log *zap.Logger
}

// ErrNoManager reports a load where no adapter manager is configured.
var ErrNoManager = fmt.Errorf("no adapter manager is configured: %w", status.ErrUnsupported)

// MaxPrompts is how many prompts one request may hold, as in the native API.
const MaxPrompts = 1024

// ReadBody reads a request's body; a body beyond the limit that the server set
// with http.MaxBytesReader is status.ErrBodyTooLarge.
func ReadBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("%w: the limit is %d bytes", status.ErrBodyTooLarge, tooLarge.Limit)
	}
	if err != nil {
		return nil, status.Invalid("body", "could not be read: %v", err)
	}
	return body, nil
}

// RequestIDHeader carries the id that logs show of a request, in and out.
const RequestIDHeader = "X-Request-Id"

// RequestID is a request's id, made up where it has none.
func RequestID(r *http.Request) string {
	return cmp.Or(r.Header.Get(RequestIDHeader), strings.ToLower(rand.Text()))
}

// CheckModel refuses the name of a model or adapter that nobody serves; no name
// at all is the base model's.
func (d *Deps) CheckModel(model string) error {
	c := d.Router.Catalogue()
	choice, ok, err := ResolveModel(d.Router.Model(), c, model)
	if err != nil || !ok {
		return err
	}
	if c == nil || c.Find(choice.Adapter) == nil {
		return &status.ModelNotFoundError{Model: model, Field: "model"}
	}
	return nil
}

// Outgoing is the context for calls to other services on the client's behalf:
// it hands the client's key on.
func Outgoing(r *http.Request) context.Context {
	if a := r.Header.Get("Authorization"); a != "" {
		return metadata.AppendToOutgoingContext(r.Context(), "authorization", a)
	}
	return r.Context()
}

// CheckIDs refuses token ids outside the vocabulary.
func (d *Deps) CheckIDs(ids []int32, field string) error {
	if len(ids) == 0 {
		return status.Invalid(field, "must not be empty")
	}
	vocab := d.Tokens.VocabSize()
	for i, id := range ids {
		if id < 0 || int(id) >= vocab {
			return status.Invalid(fmt.Sprintf("%s[%d]", field, i), "must be a token id in [0, %d), got %d", vocab, id)
		}
	}
	return nil
}

// Text is the text of token ids, special tokens included.
func (d *Deps) Text(ids []int32) string { return d.Tokens.Decode(ids, tokenizer.DecodeOptions{}) }

// TokenText shows one token: its bytes, or "bytes:\xe2\x80" when they are not
// whole runes, as OpenAI's completions do.
func (d *Deps) TokenText(id int32) string {
	b := d.Tokens.TokenBytes(id)
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	s.WriteString("bytes:")
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}
