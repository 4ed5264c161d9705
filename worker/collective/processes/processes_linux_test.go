package processes_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"chorale/worker/collective"
	"chorale/worker/collective/inprocess"
	"chorale/worker/collective/processes"
)

func TestMain(m *testing.M) {
	processes.Main(m, map[string]processes.Play{
		"sum": func(m collective.Member, args []byte) (any, error) {
			var x []float32
			if err := json.Unmarshal(args, &x); err != nil {
				return nil, err
			}
			x = append(x, float32(m.Rank()))
			return x, m.AllReduce(x)
		},
		"leave": func(m collective.Member, _ []byte) (any, error) {
			if m.Rank() == 1 {
				os.Exit(3)
			}
			return nil, m.Barrier()
		},
		"fail": func(m collective.Member, _ []byte) (any, error) {
			if m.Rank() == 1 {
				return nil, errors.New("the disk is on fire")
			}
			return nil, m.Barrier()
		},
	})
}

// TestRun: ranks get their arguments and meet; one that dies or fails is told of.
func TestRun(t *testing.T) {
	for rank, r := range processes.Run(t, "sum", 3, inprocess.Patient, []float32{1, 2}) {
		if strings.TrimSpace(string(r.Out)) != "[3,6,3]" || r.Err != nil {
			t.Errorf("rank %d: %s, %v", rank, r.Out, r.Err)
		}
	}
	for play, says := range map[string]string{"leave": "has gone", "fail": "the disk is on fire"} {
		for rank, r := range processes.Run(t, play, 2, inprocess.Patient, nil) {
			if r.Err == nil || (rank == 0 || play == "fail") && !strings.Contains(r.Err.Error(), says) {
				t.Errorf("%s: rank %d: %v", play, rank, r.Err)
			}
		}
	}
}
