package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	choralev1 "chorale/proto/gen/chorale/v1"
)

// loads is a server on which a load goes on with each look.
type loads struct {
	mu    sync.Mutex
	looks int
}

func (l *loads) Adapter(context.Context, string) (*choralev1.Adapter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks++
	switch l.looks {
	case 1:
		return nil, errors.New("not known yet")
	case 2:
		return &choralev1.Adapter{Loading: &choralev1.AdapterProgress{BytesTotal: -1}}, nil
	case 3:
		return &choralev1.Adapter{Loading: &choralev1.AdapterProgress{BytesDone: 5, BytesTotal: -1}}, nil
	}
	return &choralev1.Adapter{Loading: &choralev1.AdapterProgress{BytesDone: 10, BytesTotal: 20}}, nil
}

func TestShowLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen [][2]int64
		begun, ended := 0, []bool{}
		begin := func() (func(done, total int64), func(bool)) {
			begun++
			return func(done, total int64) { seen = append(seen, [2]int64{done, total}) }, func(ok bool) { ended = append(ended, ok) }
		}
		stop := showLoading(t.Context(), &loads{}, "a", begin)
		time.Sleep(4*pollEvery + pollEvery/2)
		stop(true)
		if begun != 1 || !slices.Equal(seen, [][2]int64{{5, 0}, {10, 20}}) || !slices.Equal(ended, []bool{true}) {
			t.Errorf("begun %d, seen %v, ended %v", begun, seen, ended)
		}
		stop = showLoading(t.Context(), &loads{}, "a", begin) // one that is over at once
		stop(false)
		if begun != 1 {
			t.Error("shown for nothing")
		}
	})
}
