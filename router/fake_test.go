package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"chorale/internal/tokenizer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// group plays a worker group: it notes what it is told and says what the test
// makes it say.
type group struct {
	addr string

	mu     sync.Mutex
	info   GroupInfo
	down   error // refuses to be described
	conn   *conn
	log    []string // what it was told since the last tell
	seqs   map[uint64]Sequence
	hints  []string // what it was last told to prefetch
	broken bool     // Submit and Abort fail
}

func newGroup(addr string, info GroupInfo) *group {
	if info.MaxRunning == 0 {
		info.MaxRunning = 8
	}
	if info.MaxLoRAsPerBatch == 0 {
		info.MaxLoRAsPerBatch = 4
	}
	if info.MaxResidentLoRAs == 0 {
		info.MaxResidentLoRAs = info.MaxLoRAsPerBatch
	}
	if info.ContextLength == 0 {
		info.ContextLength = 1000
	}
	info.ModelDigest = "m" + info.ModelDigest
	return &group{addr: addr, info: info, seqs: map[uint64]Sequence{}}
}

func (g *group) Address() string { return g.addr }

func (g *group) Describe(context.Context) (GroupInfo, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.info, g.down
}

func (g *group) Connect(context.Context) (Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down != nil {
		return nil, g.down
	}
	g.conn = &conn{g: g, out: make(chan StepOutputs), closed: make(chan struct{})}
	return g.conn, nil
}

func (g *group) Flush(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log = append(g.log, g.addr+" is to flush its cache")
	return g.down
}

// lose breaks the connection; with err the group cannot be reached again.
func (g *group) lose(err error) {
	g.mu.Lock()
	g.down = err
	c := g.conn
	g.conn = nil
	clear(g.seqs)
	g.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

func (g *group) back() {
	g.mu.Lock()
	g.down = nil
	g.mu.Unlock()
}

// say sends a message as the worker.
func (g *group) say(outs ...SequenceOutput) { g.message(StepOutputs{Outputs: outs}) }

func (g *group) message(m StepOutputs) {
	g.mu.Lock()
	c := g.conn
	for _, o := range m.Outputs {
		if o.Finish != FinishNone {
			delete(g.seqs, o.ID)
		}
	}
	g.mu.Unlock()
	if c == nil {
		return
	}
	select {
	case c.out <- m:
	case <-c.closed:
	}
}

// tell gives what the group was told since the last call.
func (g *group) tell() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.log
	g.log = nil
	return l
}

// sequences gives those that the group has, by id.
func (g *group) sequences() []Sequence {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Sequence
	for _, s := range g.seqs {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Sequence) int { return int(a.ID) - int(b.ID) })
	return out
}

// conn is a connection to a group.
type conn struct {
	g      *group
	out    chan StepOutputs
	once   sync.Once
	closed chan struct{}
}

var errLost = errors.New("connection lost")

func (c *conn) Submit(seqs []Sequence) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.g.conn != c || c.g.broken {
		return errLost
	}
	for _, s := range seqs {
		c.g.seqs[s.ID] = s
		line := fmt.Sprintf("%s gets %q", c.g.addr, decodeASCII(s.IDs[:len(s.IDs)-s.Generated]))
		if s.Digest != "" {
			line += " adapter=" + s.Digest
		}
		if s.Generated > 0 {
			line += fmt.Sprintf(" continued after %q", decodeASCII(s.IDs[len(s.IDs)-s.Generated:]))
		}
		c.g.log = append(c.g.log, line)
	}
	return nil
}

func (c *conn) Abort(ids []uint64) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.g.conn != c || c.g.broken {
		return errLost
	}
	for _, id := range ids {
		if s, ok := c.g.seqs[id]; ok {
			c.g.log = append(c.g.log, fmt.Sprintf("%s is to abort %q", c.g.addr, decodeASCII(s.IDs[:len(s.IDs)-s.Generated])))
		}
		delete(c.g.seqs, id)
	}
	return nil
}

func (c *conn) Prefetch(digests []string) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.g.conn != c || c.g.broken {
		return errLost
	}
	c.g.hints = digests
	return nil
}

func (c *conn) Recv() (StepOutputs, error) {
	select {
	case m := <-c.out:
		return m, nil
	case <-c.closed:
		return StepOutputs{}, errLost
	}
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// The test vocabulary: a token per byte, in the order of the bytes, then an end
// token and a word of several bytes.
const (
	eos  = 256
	word = 257 // "héllo"
)

// testTokenizer is a byte-level BPE without merges.
var testTokenizer = sync.OnceValue(func() *tokenizer.Tokenizer {
	vocab := map[string]int{}
	for b := range 256 {
		vocab[string(byteRune(b))] = b
	}
	var w strings.Builder
	for _, b := range []byte("héllo") {
		w.WriteRune(byteRune(int(b)))
	}
	vocab[w.String()] = word
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	b, err := json.Marshal(map[string]any{
		"version":      "1.0",
		"added_tokens": []any{map[string]any{"id": eos, "content": "<eos>", "special": true, "normalized": false}},
		"normalizer":   nil, "pre_tokenizer": byteLevel, "post_processor": nil, "decoder": byteLevel,
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []any{}},
	})
	if err != nil {
		panic(err)
	}
	t, err := tokenizer.FromJSON(b)
	if err != nil {
		panic(err)
	}
	return t
})

// byteRune is how byte-level vocabularies spell a byte.
func byteRune(b int) rune {
	if b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE {
		return rune(b)
	}
	n := 0
	for i := range b {
		if !(i >= '!' && i <= '~' || i >= 0xA1 && i <= 0xAC || i >= 0xAE) {
			n++
		}
	}
	return rune(256 + n)
}

func decodeASCII(ids []int32) string { return testTokenizer().Decode(ids, tokenizer.DecodeOptions{}) }

// bytesOf gives the tokens that spell a text.
func bytesOf(s string) []int32 {
	ids := make([]int32, len(s))
	for i := range len(s) {
		ids[i] = int32(s[i])
	}
	return ids
}

// harness is a running router. Use it inside a synctest bubble, and end it.
type harness struct {
	*Router
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
}

func start(t *testing.T, cfg Config, groups ...*group) *harness {
	t.Helper()
	cfg.Text.Tokenizer = testTokenizer()
	cfg.LoRAEnabled = true
	for _, g := range groups {
		cfg.Groups = append(cfg.Groups, g)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &harness{Router: New(cfg), t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(h.done)
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return h
}

// end stops the router and checks that nothing is left in its books.
func (h *harness) end() {
	h.t.Helper()
	h.cancel()
	<-h.done
	h.empty()
}

// empty checks the books of a router in which nothing is under way.
func (h *harness) empty() {
	h.t.Helper()
	if n := h.active.Load(); n != 0 {
		h.t.Errorf("%d answers are active", n)
	}
	if len(h.byID) != 0 || h.queue.len != 0 {
		h.t.Errorf("%d requests by id, %d answers in the queue", len(h.byID), h.queue.len)
	}
	for _, l := range h.links {
		if l.inflight != 0 || len(l.adapters) != 0 || len(l.live) != 0 {
			h.t.Errorf("%s: %d in flight, adapters %v, %d live", l.dialer.Address(), l.inflight, l.adapters, len(l.live))
		}
	}
}

// request makes a request with a text prompt.
func request(prompt string, change ...func(*Request)) *Request {
	q := &Request{Prompt: Prompt{Text: &prompt}, Sampling: DefaultSampling(), Logprobs: Logprobs{PromptStart: -1}, Field: "prompts[0]"}
	for _, f := range change {
		f(q)
	}
	return q
}

func (h *harness) submit(q *Request) *Handle {
	h.t.Helper()
	hs, err := h.Submit(context.Background(), []*Request{q})
	if err != nil {
		h.t.Fatal(err)
	}
	return hs[0]
}
