// Package conformance holds the tests that every transport of package
// collective passes.
package conformance
