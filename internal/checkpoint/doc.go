// Package checkpoint opens a base model: a Hugging Face folder (config.json,
// safetensors, tokenizer.json) or a single GGUF file. Both come out in one
// form: Hugging Face's configuration, Hugging Face's tensor names and row
// order, a tokenizer and a chat template. The router uses only the text half,
// workers only the weights.
//
// The mapped files stay open until Close; rows are read lazily, so opening
// costs no memory in proportion to the model.
package checkpoint
