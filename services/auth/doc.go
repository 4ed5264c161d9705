// Package auth says who may call what. There are two keys: the API key for
// inference and the admin key for loading and unloading adapters. A level
// whose key is not configured is open, except that admin calls fall back to
// the API key (SGLang's ADMIN_OPTIONAL rule): configuring one key never leaves
// the adapters open.
//
// An address may take a part of the calls only (Keys.At): then adapters can be
// administered from another network than answers are asked for.
//
// Keys are compared by their SHA-256 in constant time; the keys themselves are
// not kept.
package auth
