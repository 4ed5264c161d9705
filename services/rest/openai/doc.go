// Package openai speaks OpenAI's HTTP API: completions, chat completions and
// models, with the extra fields that SGLang's and vLLM's clients send.
//
// The adapter is "model" (an adapter's name, vLLM's convention, or
// "base:adapter", SGLang's) or "lora_path". A name that nobody serves is 404,
// never the base model.
package openai
