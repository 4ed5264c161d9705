//go:build !gpu

package tests

// lossy are the limits of sites whose device is to be lost, and whether an answer
// that goes on elsewhere keeps its words.
func lossy() (l limits, exact bool) { return limits{faulty: true}, true }

// steady are the limits of a site whose answers depend on nothing but the request.
func steady() limits { return limits{} }
