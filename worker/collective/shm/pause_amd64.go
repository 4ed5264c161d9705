package shm

// pause lets a spinning core be for some 0.1 µs.
func pause()
