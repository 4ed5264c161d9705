package router

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestRefusedGoesElsewhere: a sequence that a group refuses, for the adapter is
// not in its memory, is sent to another group that has it, not back to the
// same; the observer learns of answers that are given up, too.
func TestRefusedGoesElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		one, two := newGroup("one", GroupInfo{MaxRunning: 4}), newGroup("two", GroupInfo{MaxRunning: 4})
		h := start(t, Config{Observer: w}, one, two)
		h.SetCatalogue(&Catalogue{Adapters: map[string]*AdapterEntry{
			"a": {Name: "a", Digest: "d", Usable: true, Groups: []string{"one", "two"}},
		}})
		synctest.Wait()
		hd := h.submit(request("p", func(q *Request) { q.Adapter = "a" }))
		synctest.Wait()
		from, to := one, two
		if len(one.sequences()) == 0 {
			from, to = two, one
		}
		if len(from.sequences()) != 1 {
			t.Fatal("the sequence is nowhere")
		}
		from.say(SequenceOutput{ID: from.sequences()[0].ID, Finish: FinishAbort, ErrorReason: ReasonAdapterNotLoaded, StopToken: -1})
		time.Sleep(time.Second)
		synctest.Wait()
		if len(from.sequences()) != 0 || len(to.sequences()) != 1 {
			t.Errorf("%d sequences where it was refused, %d elsewhere", len(from.sequences()), len(to.sequences()))
		}
		hd.Close()
		synctest.Wait()
		if len(w.lines) != 1 || w.lines[0] != "end a 1+0 reason=3 ttft=0s total=1s" {
			t.Errorf("the observer was told %q", w.lines)
		}
		h.end()
	})
}
