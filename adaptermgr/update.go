package adaptermgr

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"chorale/adaptermgr/store"
)

// UpdateRequest changes what is not content.
type UpdateRequest struct {
	Name string
	// Pinned and Owner, nil: as they are.
	Pinned *bool
	Owner  *string
	// Labels are set; an empty value removes one.
	Labels map[string]string
	// Etag and RequestID: see LoadRequest.
	Etag, RequestID string
}

// Update changes pin, owner and labels.
func (m *Manager) Update(ctx context.Context, req UpdateRequest) (Result, error) {
	r, err := m.once(ctx, request{"update", req.RequestID, req.Name, req}, func(ctx context.Context, done *store.Request) (Result, error) {
		return m.update(ctx, &req, done)
	})
	return r, nameError(req.Name, err)
}

func (m *Manager) update(ctx context.Context, req *UpdateRequest, done *store.Request) (Result, error) {
	_, unlock, err := m.lockName(ctx, req.Name, false)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	err = m.commit(func() (change, error) {
		e := m.entries[req.Name]
		if e == nil || e.rec.State == store.StateDraining {
			return change{}, fmt.Errorf("%w%s", ErrNotFound, m.known())
		}
		if err := m.checkEtag(req.Name, req.Etag); err != nil {
			return change{}, err
		}
		r := e.rec
		r.Labels = merged(r.Labels, req.Labels)
		if req.Owner != nil {
			r.Owner = *req.Owner
		}
		if req.Pinned != nil {
			r.Pinned = *req.Pinned
		}
		r.Generation, r.Updated = 0, m.now()
		err := errors.Join(checkLabels(r.Labels), checkOwner(r.Owner))
		if v := e.current(); v != nil {
			err = errors.Join(err, m.checkPins(req.Name, v.Digest, r.Pinned))
		}
		return change{put: []store.Record{r}, why: "a client changed it", done: done}, err
	}, nil)
	if err != nil {
		return Result{}, err
	}
	return m.result(req.Name, nil)
}

// merged returns labels with changes set, those with an empty value removed.
func merged(labels, changes map[string]string) map[string]string {
	out := maps.Clone(labels)
	for k, v := range changes {
		if v == "" {
			delete(out, k)
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out
}
