// Package sglang speaks SGLang's native HTTP API: /generate, the LoRA routes
// and the information routes, so that clients and test suites written for
// SGLang's LoRA serving run unchanged.
//
// Unknown fields are ignored, as SGLang's clients send many; known ones that
// are not served are refused by name. Wherever SGLang takes a value for all
// prompts or a list of one per prompt, so does this face.
package sglang
