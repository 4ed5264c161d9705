package router

import (
	"errors"
	"testing"
	"testing/synctest"
)

// TestUnhealthy: a group whose GPU is in trouble gets no new sequences; what it
// has goes on, and with no other group the router is not ready.
func TestUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newGroup("a", GroupInfo{}), newGroup("b", GroupInfo{})
		h := start(t, Config{}, a, b)
		synctest.Wait()
		ill := func(g *group, why string) {
			g.message(StepOutputs{Devices: []DeviceState{{Index: 1, Name: "GPU", Unhealthy: why}}})
			synctest.Wait()
		}
		first := h.submit(request("one"))
		synctest.Wait()
		on := a
		other := b
		if len(b.sequences()) == 1 {
			on, other = b, a
		}
		ill(on, "XID 79")
		var more []*Handle
		for range 3 {
			more = append(more, h.submit(request("two")))
		}
		synctest.Wait()
		if len(on.sequences()) != 1 || len(other.sequences()) != 3 {
			t.Errorf("the ill group has %d, the other %d", len(on.sequences()), len(other.sequences()))
		}
		ill(other, "XID 48")
		if _, err := h.Submit(t.Context(), []*Request{request("three")}); !errors.Is(err, ErrUnavailable) || h.Ready() {
			t.Errorf("with both ill: %v", err)
		}
		if st := h.State(); st.Groups[0].Unhealthy() == "" || st.Groups[0].Usable() || !st.Groups[0].Connected {
			t.Errorf("%+v", st.Groups[0])
		}
		ill(other, "")
		more = append(more, h.submit(request("four")))
		synctest.Wait()
		if len(other.sequences()) != 4 {
			t.Errorf("well again, it has %d", len(other.sequences()))
		}
		on.say(SequenceOutput{ID: on.sequences()[0].ID, IDs: bytesOf("x"), Finish: FinishLength, StopToken: -1})
		synctest.Wait()
		if ev, err := first.Next(t.Context()); err != nil || ev.Finish == nil {
			t.Errorf("the ill group's answer: %+v %v", ev, err)
		}
		for _, m := range more {
			m.Close()
		}
		synctest.Wait()
		h.end()
	})
}
