// Package adaptermgr knows which adapters exist and which should be on the
// workers, and sees to it that they are.
//
// # A life
//
//	FETCHING → VALIDATING → LOADING → LOADED → DRAINING → gone
//	                           ↑  ↓ max_loaded_loras
//	                          READY
//
// A name has versions, numbered from 1; a number never comes again. One of them
// is current: it answers whoever asks for the name. Others may have a share of
// the name's requests (Canary), be loaded because somebody named them, or just
// be stored, to go back to (Rollback). What is loaded and pushed out is a
// version, not a name.
//
// Load fetches the artifact, checks it against the base model's modules,
// commits its two files as blobs and its record to the registry, and waits
// until the worker groups that are connected have it. A group that says nothing
// for AckTimeout is named, not waited for, and asked again. A load that fails
// before the registry knows its content leaves nothing. FAILED is what a crash
// left half-done, and an adapter whose files have gone bad or that every group
// refuses.
//
// The registry stores only what is wanted (store.State). LOADING and LOADED
// differ by what the workers hold, which they are asked: LOADED means that at
// least one group has the adapter; Placements tell which. So a restart of the
// manager needs no memory of pushes, and a restart of a worker heals by
// itself.
//
// Workers know digests, not names. A digest is wanted while a loaded version has
// it; under two names it is stored and pushed once and dropped with the last.
//
// # Changes that clients repeat and race
//
// A change with a request id is made once: its id is written in the transaction
// that makes it, so also a crash leaves both or neither. Asked again it answers
// the same; once the words of the answer are forgotten (a restart, a thousand
// others since) it answers what is so then. An etag is the registry's revision
// of the name's last change by a client; what the manager does by itself
// (pushing out, bringing back) does not change it.
//
// Watches go on from a revision as long as the names that were removed since
// are remembered, and not over a restart.
//
// # Who waits for whom
//
//   - One operation at a time per name (lockName). Unload ends a load of its
//     name that still runs.
//   - commitMu orders changes: the registry's transaction, the blobs' renames
//     and removals, and the memory's copy change together under it. It is held
//     for the few milliseconds of an fsync, never for a fetch, a check or a push.
//   - mu guards the memory's copy, for moments only; readers take just this.
//   - One goroutine per worker group compares wanted with held digests and
//     pushes and drops, each in a goroutine of its own, so that a drop that
//     waits for leases holds up nothing.
//
// # After a crash
//
// Blobs are committed before the record that names them and removed after it
// is gone, so every record's files exist; surplus blobs are removed by New. A
// name that was being fetched becomes FAILED, one that was draining drains on.
package adaptermgr
