package supervise

// Task is what a rank process is told.
type Task struct {
	Rank, Size int
	// Address and Token are of the ranks' rendezvous.
	Address, Token string
	// Restarts counts the starts before this one, Why is what ended the last.
	Restarts int
	Why      string
	// Settings are the caller's, by name: what the ranks do not choose for
	// themselves.
	Settings map[string]string
	// Files are how many more descriptors were inherited.
	Files int
}

// order is the supervisor's word to a rank after its Task.
type order struct{ Stop bool }

// report is a rank's word to its supervisor.
type report struct {
	Ready  bool
	Failed string
}

// descriptorVariable tells a process which descriptor leads to its supervisor.
const descriptorVariable = "CHORALE_RANK_FD"

// firstFile is the descriptor after the standard ones.
const firstFile = 3
