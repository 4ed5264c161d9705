package router

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
)

// TestGroupsChange: groups come while others serve, and what runs on one that is
// taken away goes on at another.
func TestGroupsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newGroup("a", GroupInfo{}), newGroup("b", GroupInfo{})
		h := start(t, Config{}, a)
		synctest.Wait()
		one := h.submit(request("one"))
		synctest.Wait()
		a.say(SequenceOutput{ID: a.sequences()[0].ID, IDs: bytesOf("x"), StopToken: -1})
		synctest.Wait()
		h.SetGroups([]Dialer{a, b})
		synctest.Wait()
		if st := h.State(); len(st.Groups) != 2 || !st.Groups[1].Usable() || st.Groups[0].InFlight != 1 {
			t.Errorf("%+v", st.Groups)
		}
		h.SetGroups([]Dialer{b})
		synctest.Wait()
		if st := h.State(); len(st.Groups) != 1 || st.Groups[0].Address != "b" {
			t.Errorf("%+v", st.Groups)
		}
		got := b.sequences()
		if len(got) != 1 || got[0].Generated != 1 {
			t.Fatalf("the other group has %+v", got)
		}
		b.say(SequenceOutput{ID: got[0].ID, IDs: bytesOf("y"), Finish: FinishLength, StopToken: -1})
		text := ""
		for {
			ev, err := one.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			text += ev.Text
		}
		if text != "xy" {
			t.Errorf("the answer is %q", text)
		}
		if err := h.FlushCache(t.Context()); err != nil {
			t.Error(err)
		}
		h.SetGroups(nil)
		synctest.Wait()
		if h.Ready() {
			t.Error("ready without a group")
		}
		h.end()
	})
}

// TestDraining: a group that asks for nothing new gets nothing new, and ends what
// it has.
func TestDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newGroup("a", GroupInfo{})
		h := start(t, Config{}, a)
		synctest.Wait()
		one := h.submit(request("one"))
		synctest.Wait()
		a.message(StepOutputs{Status: &GroupStatus{Draining: true}})
		synctest.Wait()
		if _, err := h.Submit(t.Context(), []*Request{request("two")}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("while it drains: %v", err)
		}
		a.say(SequenceOutput{ID: a.sequences()[0].ID, IDs: bytesOf("x"), Finish: FinishLength, StopToken: -1})
		synctest.Wait()
		if ev, err := one.Next(t.Context()); err != nil || ev.Finish == nil || ev.Finish.Err != nil {
			t.Errorf("its answer: %+v %v", ev, err)
		}
		a.message(StepOutputs{Status: &GroupStatus{}})
		synctest.Wait()
		h.submit(request("three")).Close()
		synctest.Wait()
		h.end()
	})
}
