// Package decoder is the transformer that the Llama family shares: pre-norm
// blocks of grouped-query attention with rotary positions and a SwiGLU MLP
// (Touvron et al. 2023, arXiv:2302.13971; GQA: arXiv:2305.13245). A family in
// a folder beside it only says, by a Spec, which of the known variations it
// takes: biases, q/k norms, sliding windows, a tied head, rotary scaling.
//
// A Model is weights, immutable and shareable; a Runner is one stream with its
// activation buffers and computes steps. Nothing here knows adapters: layers
// hand the step's segments on to worker/nn.
package decoder
