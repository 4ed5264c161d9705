// Package gguf reads GGUF files (versions 2 and 3, little endian), the format
// of llama.cpp: metadata, tensor descriptions and, aligned behind them, the
// tensors' bytes, often in quantised blocks. It also dequantises rows, undoes
// llama.cpp's row permutation, and writes small files for tests.
//
// Layout, all integers little-endian:
//
//	"GGUF" u32 version u64 #tensors u64 #metadata
//	metadata: string key, u32 type, value           (string: u64 length, bytes)
//	tensors:  string name, u32 #dims, u64 dims…, u32 type, u64 offset
//	padding to general.alignment (32 unless given), then the data
//
// Open checks all of it: counts and lengths against the bytes that are left
// (nothing is ever allocated because a count claims so), keys and names
// against duplicates, offsets against alignment, overlap and the end of the
// file. Metadata arrays stay in the file until a getter decodes them.
//
// # Shapes
//
// GGUF writes the fastest dimension first. Tensor.Shape is in the usual order,
// slowest first: a linear layer is [out, in], the embedding [vocab, hidden].
//
// # Dequantisation
//
// Rows yields f32 in the same order of operations as the format's reference
// code, with every product rounded on its own (never fused), so results are
// the same on every architecture.
//
// # Memory and lifetime
//
// Open maps the file read-only; Tensor.Data aliases the mapping and is invalid
// after Close. Strings and slices from getters are copies and stay valid. The
// length is checked once, at open. A file that another process shrinks while it
// is mapped cannot be guarded against: touching a page beyond the new end
// raises SIGBUS, which ends a Go program. Files replaced by rename are safe;
// for files that may be truncated or rewritten in place use InMemory.
//
// A File is safe for concurrent readers; Close must come after the last read.
package gguf
