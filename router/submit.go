package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"chorale/internal/chattemplate"
	"chorale/internal/tokenizer"
)

// Submit checks and enqueues requests together: all of them, or none and an
// error (a *FieldError where one field is to blame).
func (r *Router) Submit(ctx context.Context, reqs []*Request) ([]*Handle, error) {
	if r.draining.Load() {
		return nil, ErrDraining
	}
	entries, err := r.resolve(ctx, reqs)
	if err != nil {
		return nil, err
	}
	rs := make([]*running, len(reqs))
	answers := 0
	for i, q := range reqs {
		if rs[i], err = r.prepare(q, entries[i]); err != nil {
			return nil, err
		}
		answers += len(rs[i].choices)
	}
	if !r.Ready() {
		return nil, ErrUnavailable
	}
	if int(r.queued.Load())+answers > r.cfg.MaxQueued {
		return nil, fmt.Errorf("%w: %d answers wait, at most %d may", ErrOverloaded, r.queued.Load(), r.cfg.MaxQueued)
	}
	r.enqueue(rs, answers)
	hs := make([]*Handle, len(rs))
	for i, q := range rs {
		hs[i] = &Handle{EventSource: q, ID: q.id, PromptIDs: q.prompt, Created: q.arrive}
		if q.entry != nil {
			hs[i].Adapter, hs[i].Digest, hs[i].Version = q.entry.Name, q.entry.Digest, q.entry.Version
		}
	}
	return hs, nil
}

func (r *Router) enqueue(rs []*running, answers int) {
	r.active.Add(int64(answers))
	r.queued.Add(int64(answers))
	r.requests.Add(uint64(len(rs)))
	ok := r.do(func() {
		for _, q := range rs {
			r.promptTokens.Add(uint64(len(q.prompt)))
			r.byID[q.id] = append(r.byID[q.id], q)
			for _, c := range q.choices {
				r.order++
				c.order, c.id = r.order, r.nextID.Add(1)
				if q.isClosed() { // gone before it began
					c.finished = true
					r.ended(c)
					continue
				}
				r.queue.push(c, false)
			}
		}
		r.dispatch()
	})
	if !ok {
		for _, q := range rs {
			for _, c := range q.choices {
				c.fail(ErrDraining)
				r.active.Add(-1)
			}
		}
	}
}

// resolve finds the requests' adapters, bringing back those that were pushed
// out, and picks the version of each.
func (r *Router) resolve(ctx context.Context, reqs []*Request) ([]*AdapterEntry, error) {
	i := slices.IndexFunc(reqs, func(q *Request) bool { return q.Adapter != "" })
	if i < 0 {
		return make([]*AdapterEntry, len(reqs)), nil
	}
	if !r.cfg.LoRAEnabled {
		return nil, fmt.Errorf("LoRA adapter %q was requested, but %w. Start the server with --enable-lora", reqs[i].Adapter, ErrLoRADisabled)
	}
	if r.cfg.Residency != nil && !r.told.Load() { // a router that has just started denies nobody's adapter
		return nil, ErrNoCatalogue
	}
	keys := versionKeys(reqs)
	for try := 1; ; try++ {
		if err := r.recall(ctx, reqs, keys); err != nil {
			return nil, err
		}
		cat := r.Catalogue()
		out, err := r.entries(cat, reqs, keys)
		if err != nil {
			return nil, err
		}
		if try < maxRecalls && r.anyAway(out) {
			continue // somebody else's adapters pushed one out again at once
		}
		if err := r.usable(out); err != nil {
			return nil, err
		}
		r.touchMu.Lock()
		maps.Copy(r.touched, cat.refs(out))
		r.touchMu.Unlock()
		return out, nil
	}
}

// maxRecalls is how often a request brings its adapters back before it gives
// up, when others' requests push them out in between.
const maxRecalls = 20

// versionKeys are what ties requests to versions: their users, or chance.
func versionKeys(reqs []*Request) []string {
	keys := make([]string, len(reqs))
	for i, q := range reqs {
		switch {
		case q.User != "":
			keys[i] = q.Tenant + "\x00" + q.User
		default:
			keys[i] = strconv.FormatUint(rand.Uint64(), 16)
		}
	}
	return keys
}

// entries looks the requests' adapters up; nil for the base model.
func (r *Router) entries(cat *Catalogue, reqs []*Request, keys []string) ([]*AdapterEntry, error) {
	out := make([]*AdapterEntry, len(reqs))
	for i, q := range reqs {
		if q.Adapter == "" {
			continue
		}
		if out[i] = cat.pick(q.Adapter, keys[i]); out[i] == nil {
			return nil, cat.unknown(q.Adapter)
		}
	}
	return out, nil
}

// usable refuses entries that take no requests.
func (r *Router) usable(entries []*AdapterEntry) error {
	for _, e := range entries {
		switch {
		case e == nil || e.Usable:
		case !r.Ready():
			return ErrUnavailable // the adapter is nowhere because no group is
		default:
			return fmt.Errorf("%w: %s", ErrAdapterNotReady, e.Name)
		}
	}
	return nil
}

// anyAway tells whether max_loaded_loras has pushed one of the entries out, or
// one is on its way to the groups. Without a group there is nothing to wait for.
func (r *Router) anyAway(entries []*AdapterEntry) bool {
	return slices.ContainsFunc(entries, func(e *AdapterEntry) bool {
		return e != nil && (e.Evicted || e.Loading && r.Ready())
	})
}

// refs are the names that the adapter manager knows entries by.
func (c *Catalogue) refs(entries []*AdapterEntry) map[string]struct{} {
	out := map[string]struct{}{}
	for _, e := range entries {
		if e != nil {
			out[c.ref(e)] = struct{}{}
		}
	}
	return out
}

// recall brings adapters back that max_loaded_loras pushed out, waits for those
// that somebody else brings back or loads, and loads, with ReloadUnloaded, those
// that were unloaded.
func (r *Router) recall(ctx context.Context, reqs []*Request, keys []string) error {
	for _, q := range reqs {
		if q.Adapter != "" && r.Catalogue().Find(q.Adapter) == nil {
			if err := r.reload(ctx, q.Adapter); err != nil {
				return err
			}
		}
	}
	cat := r.Catalogue()
	entries, err := r.entries(cat, reqs, keys)
	if err != nil {
		return err
	}
	refs := cat.refs(entries)
	if n := r.cfg.MaxLoadedLoRAs; n > 0 && len(refs) > n {
		return fmt.Errorf("%w: %d distinct adapters requested, max loaded loras is %d", ErrTooManyAdapters, len(refs), n)
	}
	if !r.anyAway(entries) {
		return nil
	}
	// All names, so that those in use here are not pushed out for the others.
	return r.ensure(ctx, slices.Sorted(maps.Keys(refs)))
}

// ensure has the adapter manager bring names back and waits until the
// catalogue shows it.
func (r *Router) ensure(ctx context.Context, names []string) error {
	if r.cfg.Residency == nil {
		return nil
	}
	rev, err := r.cfg.Residency.Ensure(ctx, names)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAdapterNotReady, err)
	}
	return r.WaitRevision(ctx, rev)
}

// reload loads a name again that was unloaded, if that is asked for.
func (r *Router) reload(ctx context.Context, name string) error {
	r.revMu.Lock()
	source, known := r.unloaded[name]
	r.revMu.Unlock()
	if !known || r.cfg.Residency == nil {
		return r.Catalogue().unknown(name)
	}
	rev, err := r.cfg.Residency.Reload(ctx, name, source)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrAdapterNotReady, name, err)
	}
	return r.WaitRevision(ctx, rev)
}

func (c *Catalogue) unknown(name string) error {
	var loaded []string
	for _, e := range c.Adapters {
		if e.Usable {
			loaded = append(loaded, e.Name)
		}
	}
	slices.Sort(loaded)
	const most = 20
	if len(loaded) > most {
		loaded = append(loaded[:most], fmt.Sprintf("and %d more", len(loaded)-most))
	}
	return &UnknownAdapterError{Name: name, Loaded: loaded}
}

// prepare checks one request and turns it into tokens.
func (r *Router) prepare(q *Request, e *AdapterEntry) (*running, error) {
	if err := q.check(r.vocab()); err != nil {
		return nil, err
	}
	ids, err := r.tokens(q)
	if err != nil {
		return nil, err
	}
	room := r.contextLength() - len(ids)
	if room < 0 || room == 0 && q.Sampling.MaxTokens > 0 {
		return nil, &FieldError{
			Field: q.Field, Err: ErrTooLong,
			// LiteLLM and LangChain know this error by "prompt is too long".
			Problem: fmt.Sprintf("the prompt is too long: it has %d tokens, the context %d", len(ids), r.contextLength()),
		}
	}
	run := &running{
		router: r, req: q, id: q.ID, entry: e, prompt: ids, arrive: time.Now(),
		open: q.Sampling.N, left: q.Sampling.N, maxTokens: min(q.Sampling.MaxTokens, room), ready: make(chan struct{}, 1),
	}
	if run.id == "" {
		run.id = "req-" + strconv.FormatUint(rand.Uint64(), 16)
	}
	seed := rand.Uint64()
	if q.Sampling.Seed != nil {
		seed = *q.Sampling.Seed
	}
	for i := range q.Sampling.N {
		c, err := r.newChoice(run, i, seed)
		if err != nil {
			return nil, err
		}
		run.choices = append(run.choices, c)
	}
	return run, nil
}

func (r *Router) newChoice(run *running, i int, seed uint64) (*choice, error) {
	s := &run.req.Sampling
	c := &choice{
		r: run, index: i, queued: run.arrive, flow: flowKey{tenant: run.req.Tenant},
		// Each of n answers has a seed of its own; the first has the request's.
		seed: seed + uint64(i)*0x9E3779B97F4A7C15,
	}
	if tok := r.cfg.Text.Tokenizer; tok != nil {
		c.stream = tok.NewStream(tokenizer.DecodeOptions{SkipSpecial: s.SkipSpecial, SpacesBetweenSpecial: s.SpacesBetween})
	} else if field := s.textual(); field != "" {
		return nil, &FieldError{Field: join(run.req.Field, field), Problem: ErrNoTokenizer.Error(), Err: ErrNoTokenizer}
	}
	if run.entry != nil {
		c.flow.digest = run.entry.Digest
	}
	if len(s.Stop)+len(s.StopRegex) > 0 {
		m, err := tokenizer.NewStopMatcher(tokenizer.StopOptions{Strings: s.Stop, Regexes: s.StopRegex, Keep: s.NoStopTrim})
		if err != nil {
			return nil, &FieldError{Field: join(run.req.Field, "stop_regex"), Problem: err.Error()}
		}
		c.stops = m
	}
	return c, nil
}

// sequence is the choice as a worker sees it, what was generated so far included.
func (c *choice) sequence() Sequence {
	c.sent = time.Now()
	q := c.r.req
	s := Sequence{
		ID: c.id, IDs: c.r.prompt, Digest: c.flow.digest, Sampling: &q.Sampling, Seed: c.seed,
		MaxTokens: c.r.maxTokens, Generated: len(c.generated),
	}
	if len(c.generated) > 0 {
		s.IDs = slices.Concat(c.r.prompt, c.generated)
	}
	if q.Logprobs.Enabled || q.Logprobs.PromptStart >= 0 {
		s.Logprobs = &q.Logprobs
	}
	return s
}

// textual names a field that is about text, "" when there is none.
func (s *Sampling) textual() string {
	switch {
	case len(s.Stop) > 0:
		return "stop"
	case len(s.StopRegex) > 0:
		return "stop_regex"
	}
	return ""
}

// vocab is the number of tokens: the tokenizer's, or else the model's, which is
// not known before a worker group was reached.
func (r *Router) vocab() int {
	if t := r.cfg.Text.Tokenizer; t != nil {
		return t.VocabSize()
	}
	return cmp.Or(r.Model().Group.VocabSize, math.MaxInt32)
}

func (r *Router) contextLength() int {
	if n := r.Model().Group.ContextLength; n > 0 {
		return n
	}
	return math.MaxInt32
}

// Encode gives the tokens of a prompt as Submit would see them.
func (r *Router) Encode(p Prompt, addSpecial bool) ([]int32, error) {
	return r.encode("prompt", p, addSpecial)
}

func (r *Router) tokens(q *Request) ([]int32, error) { return r.encode(q.Field, q.Prompt, true) }

func (r *Router) encode(field string, p Prompt, addSpecial bool) ([]int32, error) {
	tok := r.cfg.Text.Tokenizer
	if tok == nil && (p.Messages != nil || p.Text != nil) {
		return nil, &FieldError{Field: field, Problem: ErrNoTokenizer.Error(), Err: ErrNoTokenizer}
	}
	var ids []int32
	switch {
	case p.Messages != nil:
		text, err := r.render(p)
		if err != nil {
			return nil, &FieldError{Field: join(field, "messages"), Problem: err.Error()}
		}
		ids = tok.Encode(text, false) // the template writes the special tokens
	case p.Text != nil:
		ids = tok.Encode(*p.Text, addSpecial)
		if *p.Text == "" {
			ids = nil
		}
	default:
		ids = p.IDs
		for i, id := range ids {
			if id < 0 || int(id) >= r.vocab() {
				return nil, &FieldError{Field: fmt.Sprintf("%s[%d]", field, i), Problem: fmt.Sprintf("token id %d is not in the vocabulary of %d", id, r.vocab())}
			}
		}
	}
	if len(ids) == 0 {
		return nil, &FieldError{Field: field, Problem: "the prompt is empty"}
	}
	return ids, nil
}

// render applies the chat template.
func (r *Router) render(p Prompt) (string, error) {
	t := r.cfg.Text.Template
	if t == nil {
		return "", errors.New("the model has no chat template; send a plain prompt")
	}
	msgs := p.Messages
	if !t.WantsParts() {
		var err error
		if msgs, err = chattemplate.FlattenTextParts(msgs); err != nil {
			return "", err
		}
	}
	return t.RenderChat(chattemplate.Chat{
		Messages: msgs, AddGenerationPrompt: !p.NoGenerationPrompt && !p.ContinueFinalMessage,
		ContinueFinalMessage: p.ContinueFinalMessage, BOSToken: r.cfg.Text.BOS, EOSToken: r.cfg.Text.EOS, Extra: p.TemplateVars,
	}, chattemplate.Options{})
}

// check refuses values that no request may have.
func (q *Request) check(vocab int) error {
	s := &q.Sampling
	for _, c := range []struct {
		ok    bool
		field string
		want  string
		got   any
	}{
		{s.MaxTokens >= 0, "max_tokens", "must not be negative", s.MaxTokens},
		{s.MinTokens >= 0, "min_tokens", "must not be negative", s.MinTokens},
		{s.MinTokens <= s.MaxTokens, "min_tokens", fmt.Sprintf("must not exceed max_tokens (%d)", s.MaxTokens), s.MinTokens},
		{s.Temperature >= 0 && !math.IsInf(s.Temperature, 0), "temperature", "must be a number of at least 0", s.Temperature},
		{s.TopP > 0 && s.TopP <= 1, "top_p", "must be in (0, 1]", s.TopP},
		{s.TopK >= -1, "top_k", "must be -1 (all) or at least 1", s.TopK},
		{s.MinP >= 0 && s.MinP <= 1, "min_p", "must be in [0, 1]", s.MinP},
		{math.Abs(s.FrequencyPenalty) <= 2, "frequency_penalty", "must be in [-2, 2]", s.FrequencyPenalty},
		{math.Abs(s.PresencePenalty) <= 2, "presence_penalty", "must be in [-2, 2]", s.PresencePenalty},
		{s.RepetitionPenalty > 0 && s.RepetitionPenalty <= 2, "repetition_penalty", "must be in (0, 2]", s.RepetitionPenalty},
		{s.N >= 1 && s.N <= 128, "n", "must be in [1, 128]", s.N},
		{q.Logprobs.Top >= 0 && q.Logprobs.Top <= 128, "top_logprobs", "must be in [0, 128]", q.Logprobs.Top},
		{q.Logprobs.PromptStart >= -1, "logprob_start_len", "must be at least -1", q.Logprobs.PromptStart},
	} {
		if !c.ok {
			return &FieldError{Field: join(q.Field, c.field), Problem: fmt.Sprintf("%s, got %v", c.want, c.got)}
		}
	}
	return q.checkTokens(vocab)
}

// checkTokens refuses token ids outside the vocabulary.
func (q *Request) checkTokens(vocab int) error {
	bad := func(field string, id int32) error {
		if id >= 0 && int(id) < vocab {
			return nil
		}
		return &FieldError{Field: join(q.Field, field), Problem: fmt.Sprintf("token id %d is not in the vocabulary of %d", id, vocab)}
	}
	for id, b := range q.Sampling.LogitBias {
		if err := bad("logit_bias", id); err != nil {
			return err
		}
		if math.IsNaN(b) || math.Abs(b) > 100 {
			return &FieldError{Field: join(q.Field, "logit_bias"), Problem: fmt.Sprintf("bias of token %d must be in [-100, 100], got %v", id, b)}
		}
	}
	for _, id := range q.Sampling.StopTokenIDs {
		if err := bad("stop_token_ids", id); err != nil {
			return err
		}
	}
	for _, id := range q.Logprobs.TokenIDs {
		if err := bad("token_ids_logprob", id); err != nil {
			return err
		}
	}
	return nil
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}
