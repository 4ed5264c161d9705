// Package rpc makes the gRPC server that every role uses: keys, validation,
// error mapping, recovery, logging, limits, reflection and grpc.health.v1, and
// a loop-back connection for faces that live in the same process.
package rpc
