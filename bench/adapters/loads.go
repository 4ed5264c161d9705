package adapters

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"chorale/bench/figure"
	choralev1 "chorale/proto/gen/chorale/v1"
)

// loads compares requests beside loads with requests alone.
func (m *measurement) loads(ctx context.Context) error {
	if m.c.Loads == 0 || m.c.Rounds == 0 {
		return nil
	}
	var alone, beside, loads, p50, p99 []float64
	for r := range m.c.Rounds {
		m.c.say("round %d of %d", r+1, m.c.Rounds)
		var round Round
		var quiet, busy, load []float64
		var err error
		if busy, load, round.Seconds, err = m.busy(ctx, uint64(r)); err != nil {
			return err
		}
		// As long as the loads took, so that both have as many requests.
		if quiet, err = m.requests(ctx, uint64(r), func() bool { return true }, time.Duration(round.Seconds*float64(time.Second))); err != nil {
			return err
		}
		alone, beside, loads = append(alone, quiet...), append(beside, busy...), append(loads, load...)
		round.Alone, round.Beside, round.Load = figure.Summary(quiet), figure.Summary(busy), figure.Summary(load)
		p50, p99 = append(p50, round.Beside.P50/round.Alone.P50), append(p99, round.Beside.P99/round.Alone.P99)
		m.res.Rounds = append(m.res.Rounds, round)
	}
	m.res.Alone, m.res.Beside, m.res.Load = figure.Summary(alone), figure.Summary(beside), figure.Summary(loads)
	m.res.P50, m.res.P99, m.res.Together = figure.SpreadOf(p50), figure.SpreadOf(p99), m.res.Beside.P99/m.res.Alone.P99
	return nil
}

// busy makes requests while the large adapters are loaded; what took place beside
// a load counts.
func (m *measurement) busy(ctx context.Context, seed uint64) (took, loads []float64, seconds float64, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	loading := true
	busy := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return loading
	}
	var failed error
	var all sync.WaitGroup
	began := time.Now()
	all.Go(func() {
		failed = inTurn(m.c.Loads, m.c.Together, func(i int) error {
			d, err := m.load(ctx, i)
			mu.Lock()
			defer mu.Unlock()
			loads = append(loads, d)
			return err
		})
		mu.Lock()
		defer mu.Unlock()
		loading, seconds = false, since(began)
	})
	took, err = m.requests(ctx, seed, busy, 0)
	all.Wait()
	for i := range m.c.Loads {
		failed = errors.Join(failed, m.unload(ctx, i))
	}
	return took, loads, seconds, errors.Join(err, failed)
}

func largeName(i int) string { return fmt.Sprintf("large-%04d", i) }

func (m *measurement) load(ctx context.Context, i int) (seconds float64, err error) {
	began := time.Now()
	_, err = m.client.Load(ctx, &choralev1.LoadAdapterRequest{Name: largeName(i), Source: m.large(i)})
	return since(began), err
}

func (m *measurement) unload(ctx context.Context, i int) error {
	_, err := m.client.Unload(ctx, &choralev1.UnloadAdapterRequest{Name: largeName(i), AllowMissing: true})
	return err
}

// requests lets the clients make requests, while more says so and for so long
// (0: without end), and gives how long each took.
func (m *measurement) requests(ctx context.Context, seed uint64, more func() bool, long time.Duration) ([]float64, error) {
	var mu sync.Mutex
	var took []float64
	var errs []error
	var all sync.WaitGroup
	began := time.Now()
	for k := range m.c.Clients {
		rng := rand.New(rand.NewPCG(m.c.Seed, seed<<8|uint64(k)))
		all.Go(func() {
			for more() && (long == 0 || time.Since(began) < long) {
				at := time.Now()
				err := m.request(ctx, rng, smallName(rng.IntN(min(8, m.c.Registered))), m.c.Output)
				mu.Lock()
				took = append(took, since(at))
				if err != nil {
					errs = append(errs, err)
					mu.Unlock()
					return
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return took, errors.Join(errs...)
}

// request is one, to its end.
func (m *measurement) request(ctx context.Context, rng *rand.Rand, adapter string, output int) error {
	n, zero := int32(output), 0.0
	ids := make([]int32, m.c.Prompt)
	for i := range ids {
		ids[i] = int32(rng.IntN(m.c.Shape.Spec.Vocab))
	}
	got := 0
	err := m.client.Generate(ctx, &choralev1.GenerateRequest{
		Prompts: []*choralev1.Prompt{{Kind: &choralev1.Prompt_TokenIds{TokenIds: &choralev1.TokenIds{Ids: ids}}}}, Adapters: []string{adapter},
		Sampling: &choralev1.SamplingParams{MaxTokens: &n, Temperature: &zero, IgnoreEos: true},
	}, func(p *choralev1.GenerateStreamResponse) error {
		got += len(p.TokenIds)
		return nil
	})
	if err == nil && got != output {
		err = fmt.Errorf("%w: %d tokens came, not %d", ErrConfig, got, output)
	}
	return err
}

// firstTokens loads a large adapter and asks it for one token.
func (m *measurement) firstTokens(ctx context.Context) error {
	if m.c.FirstTokens == 0 {
		return nil
	}
	m.c.say("first tokens")
	rng := rand.New(rand.NewPCG(m.c.Seed, 1<<40))
	var whole, load, resident []float64
	for i := range m.c.FirstTokens + 1 {
		k := i % max(1, m.c.Loads)
		began, before := time.Now(), m.cpu()
		d, err := m.load(ctx, k)
		if err == nil {
			err = m.request(ctx, rng, largeName(k), 1)
		}
		if err != nil {
			return err
		}
		took, middle := since(began), m.cpu()
		again := time.Now()
		if err := m.request(ctx, rng, largeName(k), 1); err != nil {
			return err
		}
		if i > 0 { // the first one warms up
			whole, load, resident = append(whole, took), append(load, d), append(resident, since(again))
			m.res.FirstTokenCPU += (middle - before) / float64(m.c.FirstTokens)
			m.res.StepCPU += (m.cpu() - middle) / float64(m.c.FirstTokens)
		}
		if err := m.unload(ctx, k); err != nil {
			return err
		}
	}
	m.res.FirstToken, m.res.LoadCall, m.res.Step = figure.Summary(whole), figure.Summary(load), figure.Summary(resident)
	return nil
}
