// Package rest is the HTTP server's handler: the native API through
// grpc-gateway, and beside it the faces that SGLang's, OpenAI's and vLLM's
// clients know. One table says which path takes which methods and which key,
// and in which shape it says its errors.
package rest
