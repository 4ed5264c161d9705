// Package conformance is the suite that every tensor.Backend passes.
//
// Each operation is compared with a plain float64 reference on random operands
// of awkward shapes, then a small transformer made of all of them is run under
// random schedules and must give the same bits as each of its sequences alone.
//
// Operands are chosen to be exact in the backend's storage precision, so that
// the bounds of Tolerance can be tight: a dropped term shows.
package conformance
