// Package nn holds the layers that models are made of. Linear (with its
// siblings Embedding and Head) is the only place in the worker that knows
// LoRA: models call it with the step's segments and never see an adapter.
package nn
