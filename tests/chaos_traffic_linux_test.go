package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"chorale/internal/adapterref"
	pb "chorale/proto/gen/chorale/v1"
)

// chaosLimit is the longest that a request may take, faults and waiting for their
// end included. What takes longer is stuck.
const chaosLimit = 90 * time.Second

// question is a request, in no face's form yet.
type question struct {
	names   []string // one per prompt
	prompts []int    // of chaosPrompts
	n       int
	tokens  int
	user    string
	id      string
	stream  bool
	leave   int  // go away after so many pieces, 0: stay
	abort   bool // ask the server to end it
}

// reply is one answer (so far) of a request.
type reply struct {
	prompt, choice int
	digest, ref    string // as the answer says; ref is name@version
	ids            []int32
	text           string
	spelled        bool // there is a text and no ids
	whole          bool
}

// outcome is what came of a request: answers, and how it ended.
type outcome struct {
	replies []reply
	typed   string // the kind of error, "" for none
	wrong   string // an error that is none of the known kinds
	broken  bool   // the connection failed
}

// ledger counts outcomes.
type ledger struct {
	mu     sync.Mutex
	counts map[string]int
}

func (l *ledger) add(what string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts == nil {
		l.counts = map[string]int{}
	}
	l.counts[what] += n
}

func (l *ledger) get(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[what]
}

func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for k, n := range l.counts {
		lines = append(lines, fmt.Sprintf("%s: %d", k, n))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ask makes a random request and judges what comes.
func (c *chaos) ask(r *rand.Rand) {
	q := c.question(r)
	faces := []struct {
		name string
		call func(context.Context, *question) outcome
	}{{"grpc", c.grpc}, {"sglang", c.sglang}, {"openai", c.openai}}
	if len(q.names) > 1 {
		faces = faces[:2] // OpenAI's has one model a request
	}
	f := faces[r.IntN(len(faces))]
	ctx, cancel := context.WithTimeout(context.Background(), chaosLimit)
	defer cancel()
	if q.abort {
		go func() {
			time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond)
			body, _ := json.Marshal(object{"rid": q.id})
			if resp, err := c.web(ctx, "/abort_request", body); err == nil {
				resp.Body.Close()
			}
		}()
	}
	began := time.Now()
	out := f.call(ctx, q)
	c.judge(f.name, q, &out, began)
}

// question draws a request.
func (c *chaos) question(r *rand.Rand) *question {
	q := &question{
		n: 1 + r.IntN(chaosChoices), tokens: 1 + r.IntN(1<<(3+r.IntN(6))), user: fmt.Sprint("user-", r.IntN(40)),
		id: fmt.Sprintf("q%d-%d", c.seed, c.asked.Add(1)), stream: r.IntN(3) > 0, abort: r.IntN(12) == 0,
	}
	q.tokens = min(q.tokens, chaosTokens)
	if r.IntN(8) == 0 && q.stream {
		q.leave = 1 + r.IntN(10)
	}
	for range 1 + r.IntN(3)/2 {
		q.names, q.prompts = append(q.names, c.someName(r)), append(q.prompts, r.IntN(len(chaosPrompts)))
	}
	return q
}

// someName is whom to ask: those that change, mostly.
func (c *chaos) someName(r *rand.Rand) string {
	switch r.IntN(10) {
	case 0:
		return ""
	case 1, 2:
		return fixed
	case 3:
		return wild[r.IntN(len(wild))]
	case 4:
		return adapterref.Format(c.names[r.IntN(len(c.names))].name, uint64(1+r.IntN(12)))
	case 5:
		return c.names[r.IntN(len(c.names))].name + "@" + c.site.digests[r.IntN(chaosContents)]
	default:
		return c.names[r.IntN(len(c.names))].name
	}
}

// judge compares every token with what the adapter that answered says alone.
func (c *chaos) judge(face string, q *question, out *outcome, began time.Time) {
	took := time.Since(began)
	for i := range out.replies {
		if why := c.site.differs(q, &out.replies[i], &c.numbers); why != "" {
			c.ledger.add("wrong", 1)
			c.t.Errorf("%s, %+v: %s", face, *q, why)
			return
		}
	}
	troubled := c.troubled(began)
	switch {
	case took >= chaosLimit && !troubled:
		c.ledger.add("stuck", 1)
		c.t.Errorf("%s, %+v: still there after %v: %+v", face, *q, took, *out)
	case out.broken && troubled || took >= chaosLimit:
		c.ledger.add("requests that lost their router", 1)
	case out.broken:
		c.ledger.add("wrong", 1)
		c.t.Errorf("%s, %+v: the connection broke, with nothing between client and router: %s", face, *q, out.wrong)
	case out.wrong != "":
		c.ledger.add("wrong", 1)
		c.t.Errorf("%s, %+v: no typed error: %s", face, *q, out.wrong)
	case out.typed != "":
		if !changes(q.names) && strings.HasPrefix(out.typed, "unknown") {
			c.t.Errorf("%s, %+v: %s", face, *q, out.typed)
		}
		c.ledger.add("ended by a typed error: "+out.typed, 1)
	case q.leave > 0:
		c.ledger.add("left by their client", 1)
	default:
		if err := q.complete(out.replies); err != nil && !q.abort {
			c.ledger.add("wrong", 1)
			c.t.Errorf("%s, %+v: %v", face, *q, err)
			return
		}
		c.ledger.add("right answers over "+face, len(out.replies))
	}
}

// changes tells whether administrators change one of the names.
func changes(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return n != "" && n != fixed })
}

// complete tells what is missing.
func (q *question) complete(rs []reply) error {
	if len(rs) != len(q.prompts)*q.n {
		return fmt.Errorf("%d answers, want %d", len(rs), len(q.prompts)*q.n)
	}
	for _, r := range rs {
		if !r.whole {
			return fmt.Errorf("an answer of %d tokens did not end", len(r.ids))
		}
	}
	return nil
}

// differs tells how an answer differs from what its adapter says alone.
func (s *chaosSite) differs(q *question, r *reply, numbers *sync.Map) string {
	name := q.names[r.prompt]
	if (name == "") != (r.digest == "") {
		return fmt.Sprintf("asked %q, answered by %q", name, r.digest)
	}
	golden, known := s.golden[r.digest]
	if !known {
		return "a digest that nobody has loaded: " + r.digest
	}
	if digest, ok := numbers.Load(r.ref); ok && digest != r.digest {
		return fmt.Sprintf("%s is %s, the answer says %s", r.ref, digest, r.digest)
	}
	want := golden[q.prompts[r.prompt]][r.choice].ids[:q.tokens]
	if r.spelled {
		if text := spell(want); r.whole && r.text != text || !strings.HasPrefix(text, r.text) {
			return fmt.Sprintf("choice %d of %s says %q, alone %q", r.choice, r.ref, r.text, text)
		}
		return ""
	}
	if len(r.ids) > len(want) || !slices.Equal(r.ids, want[:len(r.ids)]) || r.whole && len(r.ids) != len(want) {
		return fmt.Sprintf("choice %d of %s says %v, alone %v", r.choice, r.ref, r.ids, want)
	}
	return ""
}

// grpc asks over the native face.
func (c *chaos) grpc(ctx context.Context, q *question) (out outcome) {
	if !q.stream {
		r, err := c.site.infer.Generate(ctx, q.native())
		if err != nil {
			return failed(err)
		}
		for _, g := range r.Generations {
			out.grpcReply(q, g.PromptIndex, g.ChoiceIndex, g.AdapterDigest, adapterref.Format(g.Adapter, g.AdapterVersion), g.TokenIds, g.Finish)
		}
		return out
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := c.site.infer.GenerateStream(ctx, &pb.GenerateStreamRequest{Request: q.native()})
	for pieces := 1; err == nil; pieces++ {
		var m *pb.GenerateStreamResponse
		if m, err = st.Recv(); err == nil {
			out.grpcReply(q, m.PromptIndex, m.ChoiceIndex, m.AdapterDigest, adapterref.Format(m.Adapter, m.AdapterVersion), m.TokenIds, m.Finish)
			if pieces == q.leave {
				return out
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		f := failed(err)
		f.replies = out.replies
		return f
	}
	return out
}

// grpcReply adds a piece of an answer.
func (o *outcome) grpcReply(q *question, prompt, choice int32, digest, ref string, ids []int32, f *pb.Finish) {
	r := o.at(int(prompt), int(choice))
	r.digest, r.ref, r.ids = digest, ref, append(r.ids, ids...)
	switch {
	case f == nil:
	case f.Reason == pb.FinishReason_FINISH_REASON_ABORT:
		o.typed = aborted(f.Message)
	case f.Reason == pb.FinishReason_FINISH_REASON_LENGTH:
		r.whole = true
	default:
		o.wrong = "finished by " + f.Reason.String()
	}
}

// at is the reply to a prompt's choice, made at its first piece.
func (o *outcome) at(prompt, choice int) *reply {
	for i := range o.replies {
		if r := &o.replies[i]; r.prompt == prompt && r.choice == choice {
			return r
		}
	}
	o.replies = append(o.replies, reply{prompt: prompt, choice: choice})
	return &o.replies[len(o.replies)-1]
}

// aborted names the kind of an answer that was ended.
func aborted(why string) string {
	if strings.Contains(why, "group") || strings.Contains(why, "worker") {
		return "aborted, for its worker group"
	}
	return "aborted"
}

// failed types a gRPC error.
func failed(err error) outcome {
	st := status.Convert(err)
	reason := ""
	for _, d := range st.Details() {
		if i, ok := d.(interface{ GetReason() string }); ok {
			reason = i.GetReason()
		}
	}
	switch kind := kinds[reason]; {
	case kind != "":
		return outcome{typed: kind}
	case reason == "" && slices.Contains([]codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Canceled}, st.Code()):
		return outcome{broken: true, wrong: err.Error()}
	}
	return outcome{wrong: err.Error()}
}

// kinds are the reasons with which a request may end here.
var kinds = map[string]string{
	"NO_WORKER": "unavailable", "WORKER_UNAVAILABLE": "unavailable", "SERVICE_UNAVAILABLE": "unavailable", "SHUTTING_DOWN": "unavailable",
	"WORKER_LOST": "unavailable", "GROUP_LOST": "unavailable", "GROUP_RESTARTING": "unavailable",
	"ADAPTER_NOT_FOUND": "unknown adapter", "MODEL_NOT_FOUND": "unknown adapter", "ADAPTER_VERSION_NOT_FOUND": "unknown adapter",
	"ADAPTER_NOT_READY": "adapter not ready", "ABORTED": "aborted", "CANCELED": "aborted",
}

// refusal types an HTTP error.
func refusal(code int, body string) outcome {
	switch code {
	case http.StatusServiceUnavailable:
		return outcome{typed: "unavailable"}
	case http.StatusConflict:
		return outcome{typed: "adapter not ready"}
	case 499:
		return outcome{typed: "aborted"}
	case http.StatusBadRequest, http.StatusNotFound:
		for _, words := range []string{"never been loaded", "no such version", "does not exist", "not found"} {
			if strings.Contains(body, words) {
				return outcome{typed: "unknown adapter"}
			}
		}
		for _, words := range []string{"takes no requests", "being loaded"} {
			if strings.Contains(body, words) {
				return outcome{typed: "adapter not ready"}
			}
		}
	}
	return outcome{wrong: fmt.Sprintf("status %d %s", code, body)}
}
