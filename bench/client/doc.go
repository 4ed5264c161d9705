// Package client speaks to a running server over HTTP: Chorale's native REST
// face as messages of proto/chorale/v1, and any server's JSON, server-sent
// events and lines of JSON.
//
// It is what the command line's client commands and the load generator of
// chorale/bench have in common. Requests are never repeated: a load generator
// must see each failure, and a generation is not idempotent.
//
// Errors are of three kinds. An *UnreachableError means that nothing listens
// (ErrUnreachable). A *StatusError holds the server's own message, whichever of
// the known shapes its body has; one that came inside a stream has Streamed
// set. Everything else is a broken answer or a context that ended.
package client
