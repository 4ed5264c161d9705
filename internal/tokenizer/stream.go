package tokenizer

// DecodeOptions say how ids become text.
type DecodeOptions struct {
	// SkipSpecial drops special tokens.
	SkipSpecial bool
	// SpacesBetweenSpecial puts a space between a special token that is kept
	// and its neighbours, as transformers' slow tokenizers do. Its fast ones
	// never do: leave it false to decode as they do.
	SpacesBetweenSpecial bool
}

// Decode returns the text of ids. Ids outside the vocabulary are skipped; bytes
// that are not UTF-8 become U+FFFD as the reference library replaces them.
func (t *Tokenizer) Decode(ids []int32, o DecodeOptions) string {
	s := t.NewStream(o)
	for _, id := range ids {
		s.feed(id)
	}
	s.endRun()
	return s.out.take()
}

// Stream decodes ids as they arrive. The text of all Push calls and of Flush
// adds up to what Decode returns for all ids; each delta is whole code points.
// Text is held back only while a later token could still change it: an
// unfinished code point, or, with SentencePiece's byte fallback, a run of byte
// tokens. A Stream belongs to one goroutine.
type Stream struct {
	t     *Tokenizer
	o     DecodeOptions
	out   text
	chain sink // nil between runs of tokens that are decoded together
	some  bool // something was decoded before
}

// NewStream starts an empty text.
func (t *Tokenizer) NewStream(o DecodeOptions) *Stream { return &Stream{t: t, o: o} }

// Push adds a token and returns the text that is now certain, maybe none.
func (s *Stream) Push(id int32) string {
	s.feed(id)
	return s.out.take()
}

// Flush ends the text and returns what was held back, with U+FFFD for bytes
// that never became a code point. The stream is then empty, as if new.
func (s *Stream) Flush() string {
	s.endRun()
	s.some = false
	return s.out.take()
}

func (s *Stream) feed(id int32) {
	token, ok := s.t.Token(id)
	special := ok && s.t.IsSpecial(id)
	if !ok || special && s.o.SkipSpecial {
		return
	}
	if special && s.o.SpacesBetweenSpecial {
		s.endRun()
		s.separate()
		s.out.chunk(token, true, true)
		return
	}
	if s.chain == nil {
		if s.o.SpacesBetweenSpecial {
			s.separate()
		}
		s.chain = s.t.attachDecoders(&s.out)
	}
	s.chain.chunk(token, true, true)
}

func (s *Stream) separate() {
	if s.some {
		s.out.chunk(" ", true, true)
	}
	s.some = true
}

func (s *Stream) endRun() {
	if s.chain != nil {
		s.chain.close()
		s.chain = nil
	}
}

// attachDecoders builds the transducers of one run of tokens.
func (t *Tokenizer) attachDecoders(out sink) sink {
	for i := len(t.decoders) - 1; i >= 0; i-- {
		out = t.decoders[i].attach(out)
	}
	return out
}
