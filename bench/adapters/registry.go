package adapters

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"chorale/bench/figure"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// measurement fills a result.
type measurement struct {
	*site
	res   *Result
	empty map[string]int64 // memory of roles without adapters
}

const (
	reads  = 20 // lists and watches
	news   = 50 // changes that a watch waits for
	starts = 3
	// writers load at a time when adapters are registered.
	writers = 4
)

// roles are the processes by name.
func (m *measurement) roles() map[string]*process {
	return map[string]*process{"manager": m.manager, "router": m.router, "worker": m.worker}
}

// start begins with no adapters.
func (m *measurement) start(ctx context.Context) error {
	for _, start := range []func(context.Context) error{m.startWorker, m.startManager, m.startRouter} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	if _, err := m.client.Adapters(ctx); err != nil {
		return err
	}
	m.empty = map[string]int64{}
	for role, p := range m.roles() {
		m.empty[role] = p.resident()
	}
	m.res.AdapterBytes, m.res.LoadBytes = fileSize(m.small(0)), fileSize(m.large(0))
	return nil
}

// register loads all the small adapters.
func (m *measurement) register(ctx context.Context) error {
	m.c.say("registering %d adapters of %d bytes", m.c.Registered, m.res.AdapterBytes)
	took := make([]float64, m.c.Registered)
	some := func(from, to int) (cpu float64, err error) {
		before := m.cpu()
		err = inTurn(to-from, writers, func(i int) error {
			began := time.Now()
			_, err := m.client.Load(ctx, &choralev1.LoadAdapterRequest{Name: smallName(from + i), Source: m.small(from + i)})
			took[from+i] = since(began)
			return err
		})
		return (m.cpu() - before) / float64(max(1, to-from)), err
	}
	tenth := max(1, len(took)/10)
	first, err1 := some(0, tenth)
	_, err2 := some(tenth, max(tenth, len(took)-tenth))
	last, err3 := some(max(tenth, len(took)-tenth), len(took))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	m.res.RegisterCPU = [2]float64{first, last}
	m.res.RegisterFirst, m.res.RegisterLast = figure.Summary(slices.Clone(took[:tenth])), figure.Summary(slices.Clone(took[len(took)-tenth:]))
	m.res.Register = figure.Summary(took)
	for _, role := range []string{"manager", "router", "worker"} {
		now := m.roles()[role].resident()
		m.res.Memory = append(m.res.Memory, Memory{Role: role, Before: m.empty[role], After: now, PerAdapter: m.perAdapter(role, now)})
	}
	return nil
}

func (m *measurement) perAdapter(role string, now int64) float64 {
	return float64(now-m.empty[role]) / float64(m.c.Registered)
}

func smallName(i int) string { return fmt.Sprintf("small-%04d", i) }

// inTurn calls do for 0 to n-1, some at a time; the first errors are joined.
func inTurn(n, together int, do func(i int) error) error {
	var mu sync.Mutex
	var errs []error
	next := 0
	var all sync.WaitGroup
	for range min(n, together) {
		all.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= n || len(errs) > 0
				mu.Unlock()
				if stop {
					return
				}
				if err := do(i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// read lists and watches.
func (m *measurement) read(ctx context.Context) error {
	m.c.say("lists and watches")
	var lists, snapshots []float64
	for range reads {
		began, before := time.Now(), m.cpu()
		l, err := m.client.Adapters(ctx)
		if err != nil {
			return err
		}
		m.res.ListCPU += (m.cpu() - before) / reads
		if lists = append(lists, since(began)); len(l.Adapters) != m.c.Registered {
			return fmt.Errorf("%w: the list has %d adapters, not %d", ErrConfig, len(l.Adapters), m.c.Registered)
		}
		began = time.Now()
		if err := m.snapshot(ctx); err != nil {
			return err
		}
		snapshots = append(snapshots, since(began))
	}
	m.res.List, m.res.Snapshot = figure.Summary(lists), figure.Summary(snapshots)
	return m.news(ctx)
}

// errEnough ends a watch.
var errEnough = errors.New("enough")

// snapshot watches until everything was told.
func (m *measurement) snapshot(ctx context.Context) error {
	n := 0
	err := m.client.Watch(ctx, 0, func(r *choralev1.WatchAdaptersResponse) error {
		if n += len(r.Adapters); !r.Partial {
			return errEnough
		}
		return nil
	})
	switch {
	case !errors.Is(err, errEnough):
		return fmt.Errorf("a watch ended: %w", err)
	case n != m.c.Registered:
		return fmt.Errorf("%w: a watch told of %d adapters, not %d", ErrConfig, n, m.c.Registered)
	}
	return nil
}

// news changes labels and waits until a watch tells.
func (m *measurement) news(ctx context.Context) error {
	seen := make(chan time.Time, news)
	ready := make(chan struct{})
	ctx, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		begun := false
		_ = m.client.Watch(ctx, 0, func(r *choralev1.WatchAdaptersResponse) error {
			if begun && len(r.Adapters) == 1 && r.Adapters[0].Labels["news"] != "" {
				seen <- time.Now()
			}
			if !begun && !r.Partial {
				begun = true
				close(ready)
			}
			return nil
		})
	})
	defer ended.Wait()
	defer stop()
	select {
	case <-ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	var took []float64
	for i := range news {
		began := time.Now()
		_, err := m.client.Update(ctx, &choralev1.UpdateAdapterRequest{Name: smallName(i % m.c.Registered), Labels: map[string]string{"news": fmt.Sprint(i)}})
		if err != nil {
			return err
		}
		select {
		case at := <-seen:
			took = append(took, at.Sub(began).Seconds())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.res.News = figure.Summary(took)
	return nil
}

// restart starts manager and router again, with all adapters there.
func (m *measurement) restart(ctx context.Context) error {
	m.c.say("starts")
	var managers, routers []float64
	for range starts {
		m.manager.end()
		began := time.Now()
		if err := m.startManager(ctx); err != nil {
			return err
		}
		if err := m.until(ctx, func() (bool, error) {
			l, err := m.client.Adapters(ctx)
			return err == nil && len(l.Adapters) == m.c.Registered, nil
		}); err != nil {
			return err
		}
		managers = append(managers, since(began))
		m.router.end()
		began = time.Now()
		if err := m.startRouter(ctx); err != nil {
			return err
		}
		if err := m.until(ctx, func() (bool, error) {
			names, err := m.client.Voices(ctx)
			return err == nil && len(names) == m.c.Registered, nil
		}); err != nil {
			return err
		}
		routers = append(routers, since(began))
	}
	m.res.ManagerStart, m.res.RouterStart = figure.Summary(managers), figure.Summary(routers)
	for i := range m.res.Memory {
		r := &m.res.Memory[i]
		if r.Role != "worker" { // still the same process
			r.Again = m.roles()[r.Role].resident()
			r.PerAdapterAgain = m.perAdapter(r.Role, r.Again)
		}
	}
	return nil
}
