// Package mistral is Mistral 7B and its successors: Llama with a sliding
// window (Jiang et al. 2023, arXiv:2310.06825).
package mistral

import (
	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
)

// Spec reads a mistral configuration.
func Spec(c *hfconfig.Config) (decoder.Spec, error) {
	s, err := c.Spec()
	if err != nil {
		return s, err
	}
	return s, c.Window(&s, func(int) bool { return true })
}
