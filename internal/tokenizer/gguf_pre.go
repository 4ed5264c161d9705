package tokenizer

// ggufPre is what a value of tokenizer.ggml.pre stands for.
type ggufPre struct {
	splitters    []splitter
	nfc          bool
	ignoreMerges bool
	addBOS       bool // unless the file says otherwise
}

// ggufPreTokenizer maps the names that model converters write to the
// pre-tokenizers of the models they came from.
func ggufPreTokenizer(name string) (*ggufPre, error) {
	p := &ggufPre{}
	var patterns []string // each isolates its matches, in turn
	switch name {
	case "", "default":
		patterns = []string{ggufDefaultPunct, patGPT2, `\p{N}+`, `[0-9][0-9][0-9]`}
	case "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "roberta-bpe", "gigachat":
		patterns = []string{patGPT2}
	case "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone":
		patterns = []string{`\p{N}`, patGPT2}
	case "llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2":
		patterns = []string{patLlama3}
		p.ignoreMerges, p.addBOS = true, true
	case "dbrx", "smaug-bpe":
		patterns = []string{patLlama3}
	case "qwen2", "deepseek-r1-qwen":
		patterns = []string{patQwen2}
		p.nfc = true
	case "gpt-4o", "llama4":
		patterns = []string{patO200k}
		p.ignoreMerges = true
	case "tekken":
		patterns = []string{patTekken}
		p.ignoreMerges, p.addBOS = true, true
	case "deepseek-v3":
		patterns = []string{patDeepSeekNumber, patDeepSeekKanji, patDeepSeekWord}
	case "deepseek-llm":
		patterns = []string{"[\r\n]", ggufDeepSeekWord, ggufDeepSeekPunct, patTrailingSpace, ggufDeepSeekCJK, `\p{N}+`}
	case "deepseek-coder":
		patterns = []string{"[\r\n]", `\s?\p{L}+`, `\s?\p{P}+`, ggufDeepSeekCJK, `\p{N}`}
	case "falcon":
		patterns = []string{"[\\p{P}\\$\\+<=>\\^~\\|`]+", patGPT2, `[0-9][0-9][0-9]`}
	default:
		return nil, unsupported("gguf pre", name)
	}
	for _, pattern := range patterns {
		split, err := newMatchSplit(pattern, isolated, false)
		if err != nil {
			return nil, err
		}
		p.splitters = append(p.splitters, split)
	}
	return p, nil
}

// Patterns without a scanner of their own.
const (
	ggufDefaultPunct  = `[\p{P}\$\+<=>\^~\|]+`
	ggufDeepSeekPunct = `\s?[!-/:-~！-／：-～‘-‟　-。]+`
	patTrailingSpace  = `\s+$`
	ggufDeepSeekCJK   = `[一-龥ࠀ-一가-퟿]+`
	// The letters of alphabets with upper and lower case. Those that Unicode
	// normalization would change are escaped.
	ggufDeepSeekWord = `\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\u1F5F-\u1F7Dᾀ-ᾴᾶ-ᾼ\u1FBEῂ-ῄῆ-ῌ\u1FD0-\u1FD3\u1FD6-\u1FDBῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212A-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+`
)
