// Package status is the one table from errors to what clients see: a gRPC
// code with google.rpc details, an HTTP status, and the error bodies of the
// native, OpenAI, SGLang and vLLM faces.
//
// Cores return sentinels and know nothing of wire codes; faces call [Of] and
// choose a shape. An error that the table does not know is an internal error:
// its text stays in the log.
package status
