package router

// AdapterEntry is what the router knows of one adapter name.
type AdapterEntry struct {
	Name   string
	Digest string
	// Source is the path exactly as it was given at load.
	Source string
	Pinned bool
	// Usable tells whether new requests may name it: loaded on at least one
	// group. An entry that is not usable is loading, draining, failed or evicted.
	Usable bool
	// Loading tells that it is on its way to the worker groups: requests that
	// name it wait.
	Loading bool
	// Evicted tells that max_loaded_loras pushed it out: naming it brings it
	// back (through Loader).
	Evicted bool
	// Groups holds the addresses of the worker groups that have it.
	Groups  []string
	MaxRank int
	Modules []string
	Created int64 // unix seconds
}

// Catalogue is an immutable picture of all adapters. The router swaps in a new
// one with SetCatalogue and reads it without locks.
type Catalogue struct {
	Revision uint64
	Adapters map[string]*AdapterEntry
}
