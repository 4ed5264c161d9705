//go:build gpu

package tests

import "os"

// lossy are the limits of sites whose device is to be lost, and whether an answer
// that goes on elsewhere keeps its words: the devices round differently.
func lossy() (l limits, exact bool) {
	// Two would share one GPU's memory: the other computes on the CPU.
	l = limits{faulty: true, worker: []string{"--max-running-requests", "16"}, each: [][]string{{"--device", "cuda"}, {"--device", "cpu"}}}
	for _, name := range []string{"CHORALE_KERNELS", "CHORALE_CUBLASLT"} {
		l.workerEnv = append(l.workerEnv, name+"="+os.Getenv(name))
	}
	return l, false
}

// steady are the limits of a site whose answers depend on nothing but the request.
func steady() limits {
	l, _ := lossy()
	return limits{workerEnv: l.workerEnv, worker: []string{"--device", "cuda", "--deterministic"}}
}
