// Package inprocess makes groups whose ranks are all in this process, for tests
// and benchmarks: the transports are the real ones.
package inprocess

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"chorale/worker/collective"
	"chorale/worker/collective/shm"
	"chorale/worker/collective/tcp"
)

// Patient are options for a machine that is busy with other tests.
var Patient = collective.Options{Timeout: time.Minute, Stall: 30 * time.Second}

// Group is all ends of a group, by rank.
type Group []collective.Member

// Shared makes a group over shared memory, where the system has it.
func Shared(size int, o collective.Options) (Group, error) {
	f, err := shm.Create(size, o)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	g := make(Group, size)
	for rank := range g {
		if g[rank], err = shm.Open(f, rank, o); err != nil {
			return nil, errors.Join(err, g[:rank].Close())
		}
	}
	return g, nil
}

// TCP makes a group over the loopback interface.
func TCP(ctx context.Context, size int, o collective.Options) (Group, error) {
	ways, addresses := make([]tcp.Way, size), make([]string, size)
	for rank := range ways {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		addresses[rank] = l.Addr().String()
		ways[rank] = tcp.Way{Rank: rank, Addresses: addresses, Nonce: "in process", Listener: l}
	}
	g := make(Group, size)
	err := errors.Join(each(size, func(rank int) error {
		m, err := tcp.Connect(ctx, ways[rank], o)
		g[rank] = m
		return err
	})...)
	return g, err
}

// Each runs f for all ranks at once. When one fails, it ends the group, so that
// nobody waits for it.
func (g Group) Each(f func(m collective.Member) error) error {
	return errors.Join(each(len(g), func(rank int) error {
		err := f(g[rank])
		if err != nil {
			g[rank].Abort(err.Error())
			return fmt.Errorf("rank %d: %w", rank, err)
		}
		return nil
	})...)
}

// Close closes all ends.
func (g Group) Close() error {
	var errs []error
	for _, m := range g {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

func each(size int, f func(rank int) error) []error {
	errs := make([]error, size)
	var all sync.WaitGroup
	for rank := range size {
		all.Go(func() { errs[rank] = f(rank) })
	}
	all.Wait()
	return errs
}
