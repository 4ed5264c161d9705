// Package store keeps the registry: one Record per adapter name, and a revision
// that grows by one with each transaction that changes something.
//
// Store is the interface that the adapter manager uses. OpenBolt keeps the
// registry in a bbolt file, which one process at a time may open; a store for
// several managers stands behind the same interface and passes the same suite,
// storetest.Run.
//
// Records are JSON with a schema version ("v"). A record of a newer schema is
// an error, not a guess.
package store
