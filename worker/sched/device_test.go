package sched

import (
	"fmt"
	"slices"
)

// device plays the adapters' residency: places for a few adapters, which
// arrive when the test says so.
type device struct {
	places   int
	resident map[string]bool
	loading  map[string]bool
	pinned   map[string]bool
	uses     map[string]int
	used     map[string]int // tick of the last use
	tick     int
	events   []string // what Want did, for the scripts
}

func newDevice(places int) *device {
	return &device{
		places: places, resident: map[string]bool{}, loading: map[string]bool{}, pinned: map[string]bool{},
		uses: map[string]int{}, used: map[string]int{},
	}
}

func (d *device) Ready(a string) bool  { return d.resident[a] }
func (d *device) Pinned(a string) bool { return d.pinned[a] }

func (d *device) Want(a string) bool {
	if d.resident[a] || d.loading[a] {
		return true
	}
	if len(d.resident)+len(d.loading) >= d.places {
		victim := d.idle()
		if victim == "" {
			d.events = append(d.events, "no room for "+a)
			return false
		}
		delete(d.resident, victim)
		d.events = append(d.events, "evict "+victim)
	}
	d.loading[a] = true
	d.events = append(d.events, "load "+a)
	return true
}

// idle is the unused adapter whose last use is longest ago.
func (d *device) idle() string {
	victim := ""
	for a := range d.resident {
		if d.uses[a] > 0 || d.pinned[a] {
			continue
		}
		if victim == "" || d.used[a] < d.used[victim] || d.used[a] == d.used[victim] && a < victim {
			victim = a
		}
	}
	return victim
}

func (d *device) arrive(a string) {
	delete(d.loading, a)
	d.resident[a] = true
}

func (d *device) Use(a string) {
	if !d.resident[a] {
		panic(fmt.Sprintf("adapter %s is used but not on the device", a))
	}
	d.uses[a]++
	d.touch(a)
}

func (d *device) Unuse(a string) {
	if d.uses[a]--; d.uses[a] < 0 {
		panic(fmt.Sprintf("adapter %s is given back more often than taken", a))
	}
	d.touch(a)
}

func (d *device) touch(a string) {
	d.tick++
	d.used[a] = d.tick
}

// tell gives the events since the last call.
func (d *device) tell() []string {
	ev := slices.Clone(d.events)
	d.events = nil
	return ev
}
