package tests

import (
	"encoding/json"
	"fmt"
)

// testMoreThanResident: all of five adapters at once, two fit a batch and the
// device.
func testMoreThanResident(s *site) {
	alone := map[string]string{"": s.say(prompt, "", 8)}
	for _, n := range names {
		s.load(n)
		alone[n] = s.say(prompt, n, 8)
	}
	all := append([]string{""}, names...)
	const rounds = 3
	got := together(rounds*len(all), func(i int) string { return s.say(prompt, all[i%len(all)], 8) })
	for i, g := range got {
		if n := all[i%len(all)]; g != alone[n] {
			s.t.Errorf("%q: %q, alone %q", n, g, alone[n])
		}
	}
	for _, g := range s.info().WorkerGroups {
		if g.MaxStepAdapters > 2 || len(g.ResidentAdapters) > 2 {
			s.t.Errorf("limits of 2 are exceeded: %+v", g)
		}
	}
	s.idle(callLimit)
}

// testMoreThanLoaded: two may be loaded, the least recently used goes and comes
// back when it is asked for.
func testMoreThanLoaded(s *site) {
	alone := map[string]string{}
	for _, n := range names[:3] {
		s.load(n)
		alone[n] = s.say(prompt, n, 6)
	}
	loaded := func() (out []string) {
		var list struct {
			Adapters []struct{ Name, State string }
		}
		_, raw := s.get("/chorale/v1/adapters")
		if err := json.Unmarshal(raw, &list); err != nil || len(list.Adapters) != 3 {
			s.t.Fatalf("adapters: %s", raw)
		}
		for _, a := range list.Adapters {
			if a.State == "ADAPTER_STATE_LOADED" {
				out = append(out, a.Name)
			}
		}
		return out
	}
	if got := loaded(); len(got) != 2 || got[0] != "bass" || got[1] != "canto" {
		s.t.Errorf("loaded: %v", got)
	}
	for range 2 { // each comes back for its use
		for _, n := range names[:3] {
			if got := s.say(prompt, n, 6); got != alone[n] {
				s.t.Errorf("%s says %q, want %q", n, got, alone[n])
			}
			if got := loaded(); len(got) != 2 {
				s.t.Errorf("loaded: %v", got)
			}
		}
	}
	three := greedy(prompt, "", 2)
	three["text"], three["lora_path"] = []string{"a", "b", "c"}, []string{"alto", "bass", "canto"}
	s.refused("/generate", three, 400, "2")
	// All three at once: they take turns, none is answered by another.
	for i, got := range together(6, func(i int) string {
		code, raw := s.post("/generate", greedy(prompt, names[i%3], 6))
		var out sglang
		if code != 200 || json.Unmarshal(raw, &out) != nil {
			return fmt.Sprintf("%d %s", code, raw)
		}
		return out.Text
	}) {
		if got != alone[names[i%3]] {
			s.t.Errorf("%s at once: %q, want %q", names[i%3], got, alone[names[i%3]])
		}
	}
	// One in the place of another is pinned, the other cannot be.
	var out object
	s.ask("/chorale/v1/adapters", object{"name": "pin", "source": "echo", "pinned": true}, &out)
	s.refused("/load_lora_adapter", object{"lora_name": "pin2", "lora_path": "duo", "pinned": true}, 400, "starvation")
	s.idle(callLimit)
}
