//go:build gpu

package tests

import "os"

// lossy are the limits of sites whose device is to be lost, and whether an answer
// that goes on elsewhere keeps its words: the fast kernels round by the size of
// the batch.
func lossy() (l limits, exact bool) {
	l = limits{faulty: true, worker: []string{"--device", "cuda", "--max-running-requests", "16"}}
	for _, name := range []string{"CHORALE_KERNELS", "CHORALE_CUBLASLT"} {
		l.workerEnv = append(l.workerEnv, name+"="+os.Getenv(name))
	}
	return l, false
}
