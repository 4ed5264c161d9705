// Package kv accounts for the pages of the key/value cache: which are free,
// which belong to running sequences, and which hold a finished prefix that a
// later sequence may share. It is pure bookkeeping; the values themselves are
// a tensor.KV on the device.
//
// A page is in exactly one of three states:
//
//   - free: nobody uses it, its content means nothing;
//   - held: one or more sequences refer to it (refcount > 0);
//   - cached: nobody refers to it, but it holds a published prefix and may be
//     found by NewTable. Cached pages are given up, least recently used first,
//     when Grow runs out of free ones.
//
// Pages come and go in groups, whose memory is whole chunks of the device's
// pool. Gain adds a group, Give takes out one in which nobody holds a page.
// Pages are handed out from the first group that has a free one, so that the
// last groups empty; the groups to go next are the empty ones, from the end, and
// then those whose prefixes were used longest ago. A prefix that is forgotten
// takes with it what can be found only through it.
//
// Only full pages are published, so shared pages are never written again. The
// prefix index is a tree in which a node is keyed by (parent node, the page's
// tokens) and the root by the adapter's digest: KV computed under one adapter,
// or one version of it, can never serve another. Keys are compared in full;
// there is no hash to collide.
package kv
