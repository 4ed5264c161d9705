// Package figure holds what all benchmarks share: distributions and spreads,
// fairness indices, aligned tables, and the head that every result carries, so
// that no figure is without the machine, the device, the versions and the
// command that made it.
package figure
