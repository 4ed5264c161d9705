package face

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"chorale/router"
	"chorale/services/inference"
	"chorale/services/rest/jsonbody"
	"chorale/services/status"
)

// Limits of lists in sampling parameters, as in the native API.
const (
	MaxStops      = 64
	MaxStopRegex  = 16
	MaxChoices    = 128
	MaxTop        = 128
	maxStopTokens = 1024
	maxBias       = 100
)

// ReadSampling reads the sampling fields that all faces have under the same
// names. Null leaves the default.
func ReadSampling(o *jsonbody.Object, s *router.Sampling) {
	o.Float("temperature", &s.Temperature)
	o.Float("top_p", &s.TopP)
	o.Int("top_k", &s.TopK)
	o.Float("min_p", &s.MinP)
	o.Float("frequency_penalty", &s.FrequencyPenalty)
	o.Float("presence_penalty", &s.PresencePenalty)
	o.Float("repetition_penalty", &s.RepetitionPenalty)
	o.StringOrList("stop", MaxStops, &s.Stop)
	o.StringOrList("stop_regex", MaxStopRegex, &s.StopRegex)
	o.Int32s("stop_token_ids", &s.StopTokenIDs)
	o.Bool("ignore_eos", &s.IgnoreEOS)
	o.Bool("no_stop_trim", &s.NoStopTrim)
	o.Bool("skip_special_tokens", &s.SkipSpecial)
	o.Bool("spaces_between_special_tokens", &s.SpacesBetween)
	o.Int("n", &s.N)
	readBias(o, s)
}

// readBias reads logit_bias: an object whose keys are token ids.
func readBias(o *jsonbody.Object, s *router.Sampling) {
	b := o.Struct("logit_bias")
	if b == nil {
		return
	}
	s.LogitBias = map[int32]float64{}
	for _, key := range slices.Sorted(slices.Values(b.Names())) {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil || id < 0 {
			o.Fail(o.Get("logit_bias").Errorf("must have token ids as keys, got %q", key))
			return
		}
		v, err := b.Get(key).Float()
		if err != nil {
			o.Fail(err)
			return
		}
		s.LogitBias[int32(id)] = v
	}
}

// Names are the names that a face has for sampling fields whose names differ
// between faces, and the path in front of them ("sampling_params.").
type Names struct{ Prefix, MaxTokens, MinTokens string }

// CheckSampling refuses values outside their ranges. All comparisons are
// written so that NaN fails them.
func CheckSampling(s *router.Sampling, n Names, vocab int) error {
	bad := func(field, problem string, got any) error {
		return status.Invalid(n.Prefix+field, "%s, got %v", problem, got)
	}
	switch {
	case s.MaxTokens < 0:
		return bad(n.MaxTokens, "must not be negative", s.MaxTokens)
	case s.MinTokens < 0:
		return bad(n.MinTokens, "must not be negative", s.MinTokens)
	case s.MinTokens > s.MaxTokens:
		return bad(n.MinTokens, fmt.Sprintf("must not be above %s, %d", n.MaxTokens, s.MaxTokens), s.MinTokens)
	case !(s.Temperature >= 0):
		return bad("temperature", "must not be negative", s.Temperature)
	case !(s.TopP > 0 && s.TopP <= 1):
		return bad("top_p", "must be in (0, 1]", s.TopP)
	case s.TopK < -1:
		return bad("top_k", "must be -1 (all) or more", s.TopK)
	case !(s.MinP >= 0 && s.MinP <= 1):
		return bad("min_p", "must be in [0, 1]", s.MinP)
	case !(s.FrequencyPenalty >= -2 && s.FrequencyPenalty <= 2):
		return bad("frequency_penalty", "must be in [-2, 2]", s.FrequencyPenalty)
	case !(s.PresencePenalty >= -2 && s.PresencePenalty <= 2):
		return bad("presence_penalty", "must be in [-2, 2]", s.PresencePenalty)
	case !(s.RepetitionPenalty > 0 && s.RepetitionPenalty <= 2):
		return bad("repetition_penalty", "must be in (0, 2]", s.RepetitionPenalty)
	case s.N < 1 || s.N > MaxChoices:
		return bad("n", fmt.Sprintf("must be in [1, %d]", MaxChoices), s.N)
	case len(s.StopTokenIDs) > maxStopTokens:
		return bad("stop_token_ids", fmt.Sprintf("must have at most %d items", maxStopTokens), len(s.StopTokenIDs))
	}
	for i, stop := range s.Stop {
		if stop == "" {
			return status.Invalid(fmt.Sprintf("%sstop[%d]", n.Prefix, i), "must not be empty")
		}
	}
	if err := inference.CheckStopRegex(s.StopRegex, n.Prefix+"stop_regex"); err != nil {
		return err
	}
	return checkTokens(s, n, vocab)
}

// checkTokens refuses ids outside the vocabulary and absurd biases.
func checkTokens(s *router.Sampling, n Names, vocab int) error {
	for i, id := range s.StopTokenIDs {
		if id < 0 || int(id) >= vocab {
			return status.Invalid(fmt.Sprintf("%sstop_token_ids[%d]", n.Prefix, i), "must be a token id in [0, %d), got %d", vocab, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.LogitBias)) {
		if int(id) >= vocab {
			return status.Invalid(n.Prefix+"logit_bias", "must have token ids in [0, %d) as keys, got %d", vocab, id)
		}
		if b := s.LogitBias[id]; !(b >= -maxBias && b <= maxBias) {
			return status.Invalid(fmt.Sprintf("%slogit_bias.%d", n.Prefix, id), "must be in [-%d, %d], got %v", maxBias, maxBias, b)
		}
	}
	return nil
}

// Refuse fails for the first of the named fields that asks for something:
// null, false and empty values do not.
func Refuse(o *jsonbody.Object, fields ...string) {
	for _, f := range fields {
		if !o.Empty(f) {
			o.Fail(status.Unsupported(o.Get(f).Path))
			return
		}
	}
}
