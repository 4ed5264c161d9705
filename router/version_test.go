package router

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

// canaries is a catalogue of "a": version 1 answers, the others have shares.
func canaries(shares ...int) *Catalogue {
	e := &AdapterEntry{Name: "a", Digest: "sha256:00000001", Version: 1, Usable: true}
	for i, w := range shares {
		e.Versions = append(e.Versions, &AdapterEntry{
			Name: "a", Digest: fmt.Sprintf("sha256:%08d", i+2), Version: uint64(i + 2), Weight: w, Usable: true,
		})
	}
	return &Catalogue{Revision: 1, Adapters: map[string]*AdapterEntry{"a": e}}
}

// picks counts users by version.
func picks(c *Catalogue, users int) (counts map[uint64]int, of []uint64) {
	counts = map[uint64]int{}
	for i := range users {
		v := c.pick("a", fmt.Sprint("user-", i)).Version
		counts[v]++
		of = append(of, v)
	}
	return counts, of
}

func TestShares(t *testing.T) {
	const users = 20_000
	for _, tc := range []struct {
		shares []int
		want   map[uint64]float64
	}{
		{nil, map[uint64]float64{1: 1}},
		{[]int{0}, map[uint64]float64{1: 1}},
		{[]int{10}, map[uint64]float64{1: 0.9, 2: 0.1}},
		{[]int{10, 50}, map[uint64]float64{1: 0.4, 2: 0.1, 3: 0.5}},
		{[]int{100}, map[uint64]float64{2: 1}},
		{[]int{40, 60}, map[uint64]float64{2: 0.4, 3: 0.6}},
	} {
		counts, _ := picks(canaries(tc.shares...), users)
		for v := uint64(1); v <= 3; v++ {
			if got := float64(counts[v]) / users; got < tc.want[v]-0.01 || got > tc.want[v]+0.01 || tc.want[v] == 0 && counts[v] > 0 {
				t.Errorf("shares %v: version %d has %.3f, want %.3f", tc.shares, v, got, tc.want[v])
			}
		}
	}
}

// TestUsersStay: when a share grows, nobody who had the version leaves it, and
// with one canary nobody moves but to it.
func TestUsersStay(t *testing.T) {
	const users = 5000
	for _, tc := range []struct{ before, after []int }{{[]int{10}, []int{30}}, {[]int{30}, []int{100}}, {[]int{10, 20}, []int{30, 20}}} {
		_, before := picks(canaries(tc.before...), users)
		_, after := picks(canaries(tc.after...), users)
		moved := 0
		for i := range before {
			if before[i] == after[i] {
				continue
			}
			moved++
			if before[i] == 2 || len(tc.before) == 1 && after[i] != 2 {
				t.Fatalf("%v to %v: user %d moved from version %d to %d", tc.before, tc.after, i, before[i], after[i])
			}
		}
		if moved == 0 {
			t.Errorf("%v to %v: nobody moved", tc.before, tc.after)
		}
	}
}

func TestFindVersion(t *testing.T) {
	c := canaries(10, 0)
	c.Adapters["a"].Versions[1].Digest = "sha256:00000001" // the same content again
	c.Adapters["mail@1"] = &AdapterEntry{Name: "mail@1", Version: 7}
	for ref, want := range map[string]uint64{
		"a": 1, "a@1": 1, "a@2": 2, "a@3": 3, "a@4": 0, "a@sha256:00000002": 2, "a@sha256:00000001": 3, "a@sha256:00000009": 0,
		"b@1": 0, "b": 0, "a@": 0, "mail@1": 7, "mail@1@7": 7,
	} {
		e := c.Find(ref)
		if got := uint64(0); e != nil && e.Version != want || e == nil && want != got {
			t.Errorf("%s: %+v, want version %d", ref, e, want)
		}
	}
	// A name with a version never goes to another.
	for i := range 100 {
		if e := c.pick("a@1", fmt.Sprint(i)); e.Version != 1 {
			t.Fatalf("version %d", e.Version)
		}
	}
}

// TestFailedCanary: a version that no group has gets no requests.
func TestFailedCanary(t *testing.T) {
	c := canaries(90)
	c.Adapters["a"].Versions[0].Usable = false
	if counts, _ := picks(c, 100); counts[2] != 0 {
		t.Errorf("%v", counts)
	}
	c.Adapters["a"].Versions[0].Evicted = true // but one that can come back does
	if counts, _ := picks(c, 100); counts[2] == 0 {
		t.Errorf("%v", counts)
	}
}

// TestSubmitVersions: requests get the version that they name or that their
// user has, and a version that is away is brought back by its reference.
func TestSubmitVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := &churn{}
		g := newGroup("g", GroupInfo{})
		h := start(t, Config{Residency: res}, g)
		cat := canaries(50)
		h.SetCatalogue(cat)
		synctest.Wait()
		submit := func(name, user string) (*Handle, error) {
			hs, err := h.Submit(context.Background(), []*Request{request("p", func(q *Request) { q.Adapter, q.User = name, user })})
			if err != nil {
				return nil, err
			}
			hs[0].Close()
			return hs[0], nil
		}
		seen := map[uint64]bool{}
		for i := range 20 {
			user := fmt.Sprint("user-", i)
			first, err := submit("a", user)
			if err != nil {
				t.Fatal(err)
			}
			again, err := submit("a", user)
			if err != nil || again.Version != first.Version || again.Digest != first.Digest || again.Adapter != "a" {
				t.Errorf("%+v, then %+v, %v", first, again, err)
			}
			seen[first.Version] = true
		}
		if len(seen) != 2 {
			t.Errorf("versions %v", seen)
		}
		if hd, err := submit("a@1", "u"); err != nil || hd.Version != 1 {
			t.Errorf("%+v, %v", hd, err)
		}
		if _, err := submit("a@9", "u"); !errors.Is(err, ErrUnknownAdapter) {
			t.Errorf("err = %v", err)
		}
		away := canaries(0)
		away.Adapters["a"].Versions[0].Usable, away.Adapters["a"].Versions[0].Evicted = false, true
		h.SetCatalogue(away)
		res.after = func(int) { h.SetCatalogue(canaries(0)) }
		calls := res.calls
		if hd, err := submit("a@sha256:00000002", "u"); err != nil || hd.Version != 2 || res.calls != calls+1 || res.ensured[len(res.ensured)-1] != "a@2" {
			t.Errorf("%+v, %v, asked %d times for %v", hd, err, res.calls-calls, res.ensured)
		}
		synctest.Wait()
		h.end()
	})
}
