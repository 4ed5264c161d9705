package adaptermgr

import (
	"context"
	"time"

	"go.uber.org/zap"

	"chorale/adaptermgr/store"
)

// collectEvery is how often blobs are looked for that nobody names. A change
// removes its own at once; what is left are those that could not be removed
// then.
const collectEvery = time.Hour

func (m *Manager) collectNowAndThen(ctx context.Context) {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := m.Collect(); err != nil {
			m.log.Warn("surplus blobs not looked for", zap.Error(err))
		}
	}
}

// Collect removes the blobs that no version names, in memory or in the
// registry. It waits for changes in progress, and those that come meanwhile
// wait for it.
func (m *Manager) Collect() error {
	m.commitMu.Lock()
	defer m.commitMu.Unlock()
	have, err := m.o.Blobs.List()
	if err != nil {
		return classify(err)
	}
	return m.tidyUnregistered(have)
}

// tidyUnregistered removes those of the blobs that neither the registry nor
// memory names. The two differ after a change whose outcome is not known: a
// disk may fail after the write. commitMu is held.
func (m *Manager) tidyUnregistered(blobs []string) error {
	registered := map[string]bool{}
	err := m.o.Registry.View(func(tx store.Tx) error {
		records, err := tx.List()
		for _, r := range records {
			for _, d := range blobsOf(r) {
				registered[d] = true
			}
		}
		return err
	})
	if err != nil {
		return classify(err)
	}
	var surplus []string
	for _, d := range blobs {
		if !registered[d] {
			surplus = append(surplus, d)
		}
	}
	m.tidy(surplus)
	return nil
}
