package device

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Report is what a Monitor knows of its GPU.
type Report struct {
	GPU GPU
	// XIDs counts the driver's events since the start, LastXID is the number of
	// the last one.
	XIDs    uint64
	LastXID uint64
	// Unhealthy says what is wrong with the GPU; empty while it can be used. It
	// stays: a GPU that had such a fault wants a reset.
	Unhealthy string
}

// Monitor watches one GPU.
type Monitor struct {
	d     *Driver
	gpu   GPU
	every time.Duration
	on    func(Event)

	mu     sync.Mutex
	report Report
}

// NewMonitor watches a GPU that GPUs listed, looking at it once per interval.
// on, when not nil, is called with each of the driver's events, with new
// uncorrectable memory errors, and when the GPU is lost.
func NewMonitor(d *Driver, g GPU, every time.Duration, on func(Event)) *Monitor {
	if on == nil {
		on = func(Event) {}
	}
	return &Monitor{d: d, gpu: g, every: every, on: on, report: Report{GPU: g}}
}

// Report tells the latest.
func (m *Monitor) Report() Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.report
}

// Run watches until ctx ends. It fails only when nothing can be watched at all.
func (m *Monitor) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	wg.Go(func() {
		err := m.d.events(ctx, m.gpu.UUID, m.take)
		if errors.Is(err, ErrLost) {
			m.lost()
			err = nil
		}
		if err != nil {
			failed <- fmt.Errorf("events of %s: %w", m.gpu.Name, err)
		}
	})
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-tick.C:
			m.sample()
		}
	}
}

// sample looks at the GPU.
func (m *Monitor) sample() {
	g, err := m.d.read(m.gpu.UUID)
	if errors.Is(err, ErrLost) {
		m.lost()
	}
	if err != nil {
		return // what was read before stands
	}
	g.Index, g.Ordinal, g.MemoryBandwidth = m.gpu.Index, m.gpu.Ordinal, m.gpu.MemoryBandwidth
	m.mu.Lock()
	worse := g.ECC.Uncorrected > m.gpu.ECC.Uncorrected && m.report.Unhealthy == ""
	m.report.GPU = g
	m.mu.Unlock()
	if worse { // since the start; older ones were retired with the last reset
		m.take(Event{Text: fmt.Sprintf("%d uncorrectable memory errors since the start", g.ECC.Uncorrected-m.gpu.ECC.Uncorrected), Fatal: true})
	}
}

func (m *Monitor) lost() {
	m.mu.Lock()
	known := m.report.Unhealthy != ""
	if !known {
		m.report.Unhealthy = ErrLost.Error()
	}
	m.mu.Unlock()
	if !known {
		m.on(Event{Text: ErrLost.Error(), Fatal: true})
	}
}

// take notes an event and passes it on.
func (m *Monitor) take(e Event) {
	m.mu.Lock()
	if e.XID != 0 {
		m.report.XIDs++
		m.report.LastXID = e.XID
	}
	if e.Fatal && m.report.Unhealthy == "" {
		m.report.Unhealthy = e.String()
	}
	m.mu.Unlock()
	m.on(e)
}
