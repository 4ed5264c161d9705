// Package tokenizer turns text into token ids and back.
//
// Two file formats describe a tokenizer: Hugging Face's tokenizer.json
// ([FromJSON]) and the tokenizer.ggml.* keys of a GGUF file ([FromGGUF]). Both
// become the same pipeline:
//
//	text ─▶ added tokens ─▶ normalizer ─▶ added tokens ─▶ pre-tokenizer ─▶ model ─▶ template
//	       (raw text)                    (normalized)     words            ids     BOS, EOS
//
// The model is byte-level BPE, SentencePiece-style BPE (with byte fallback) or
// Unigram. Ids must equal those of the Hugging Face Rust library exactly: a
// model has only ever seen those. TestOracle and the goldens in testdata hold
// this package to it.
//
// # Speed
//
// Pre-tokenizer patterns are .NET-like regular expressions with look-ahead.
// The few that nearly every model uses are recognised by their text and run as
// hand-written scanners over a two-level class table (scan*.go); any other goes
// through regexp2, four times slower and equally exact. Merges are looked up by
// id pair in an open-addressing table, and whole words in a bounded lock-free
// cache.
//
// # Decoding
//
// Every decoder is written as a transducer that sees one token at a time
// (decode.go). [Tokenizer.Decode] and [Stream] run the same transducers, so a
// stream's deltas add up to the full decode by construction.
//
// # Trust
//
// [Tokenizer.Encode] recognises the spelling of special tokens inside text, as
// the templates of chat models need. Text from a stranger goes through
// [Tokenizer.EncodePlain], where no text can become a special token.
package tokenizer
