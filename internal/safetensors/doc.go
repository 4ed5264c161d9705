// Package safetensors reads and writes the safetensors format: an eight byte
// little-endian header length N, N bytes of JSON naming every tensor's dtype,
// shape and byte range, then the tensors' bytes without gaps.
//
// Everything is checked when a file is opened, so that later reads need no
// error path: the header stays below 100 MB and inside the file, the ranges
// start at zero, touch each other and end with the file, no name appears
// twice, and every range is exactly shape × dtype bytes. What a header claims
// never decides how much is allocated: memory grows only with header bytes
// that are really there.
//
// # Memory and lifetime
//
// Open maps the file read-only; Tensor.Data aliases the mapping and is invalid
// after Close. The length is compared with the header once, at open. A file
// that another process shrinks while it is mapped cannot be guarded against:
// touching a page beyond the new end raises SIGBUS, which ends a Go program.
// Files that are replaced by rename (as content-addressed blobs and the hub
// cache are) are safe, since the mapping keeps the old inode. For files that
// somebody may truncate or rewrite in place, open them with InMemory, which
// reads a private copy.
//
// A File is safe for concurrent readers; Close must come after the last read.
package safetensors
