package hfconfig

// defaults gives what keys mean that a family's config.json leaves out: the
// defaults of transformers' configuration classes (testdata/defaults.py). A key
// that is present and null is not left out.
func defaults(family string) Config {
	c := Config{
		HiddenSize: 4096, NumHiddenLayers: 32, NumAttentionHeads: 32, RMSNormEps: 1e-6, HiddenAct: "silu",
		TieWordEmbeddings: ptr(false), RopeTheta: ptr(10000.0),
	}
	switch family {
	case "llama": // as many key/value heads as heads
		c.VocabSize, c.IntermediateSize, c.MaxPositionEmbeddings = 32000, 11008, 2048
	case "mistral":
		c.VocabSize, c.IntermediateSize, c.MaxPositionEmbeddings = 32000, 14336, 131072
		c.NumKeyValueHeads, c.SlidingWindow = ptr(8), ptr(4096)
	case "qwen2":
		c.qwen()
	case "qwen3":
		c.qwen()
		c.HeadDim = ptr(128)
	default:
		return Config{}
	}
	return c
}

func (c *Config) qwen() {
	c.VocabSize, c.IntermediateSize, c.MaxPositionEmbeddings = 151936, 22016, 32768
	c.NumKeyValueHeads = ptr(32)
	c.UseSlidingWindow, c.SlidingWindow, c.MaxWindowLayers = ptr(false), ptr(4096), ptr(28)
}

func ptr[T any](v T) *T { return &v }
