// Package memory decides how the cache's pages and the adapters share one pool
// of device memory, in chunks. It is pure bookkeeping: no clock but the step, no
// device; what it decides, a Mover carries out.
//
//   - The cache grows into free chunks, in lots, except a few that are spared for
//     the next adapter.
//   - An adapter that is wanted takes free chunks, then whatever was used longest
//     ago: groups of pages that only the prefix cache holds, or adapters that
//     nobody uses. It gets all it needs or nothing is touched.
//   - When running sequences need pages, the cache takes adapters that nobody
//     uses or waits for, the one used longest ago first. If there are none, the
//     scheduler preempts.
//   - Pages of running sequences and adapters that are in use or pinned are never
//     taken, and the cache keeps a floor: room for one sequence of the greatest
//     length. So a sequence alone can always end, and an adapter that is not
//     larger than the rest can always be loaded once nothing runs.
//   - What was just given to one side is not taken back by the other for some
//     steps, lest they push each other out in turn. When nothing runs there is
//     nobody to protect, and steps would not count: then this does not hold.
//
// All chunks exist from the start, and everybody asks here first: so memory
// cannot run out while serving, by construction.
package memory
