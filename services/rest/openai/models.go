package openai

import (
	"net/http"
	"slices"
	"strings"

	"chorale/router"
	"chorale/services/rest/face"
	"chorale/services/status"
)

// ownedBy is what model cards show as their owner.
const ownedBy = "chorale"

// card is a model or an adapter in /v1/models. Adapters have the base model as
// parent and their path, exactly as it was given, as root.
type card struct {
	ID          string  `json:"id"`
	Object      string  `json:"object"`
	Created     int64   `json:"created"`
	OwnedBy     string  `json:"owned_by"`
	Root        string  `json:"root"`
	Parent      *string `json:"parent"`
	MaxModelLen *int    `json:"max_model_len"`
}

// Models is GET /v1/models: the base model, then the adapters by name.
func (h *Handler) Models(w http.ResponseWriter, _ *http.Request) {
	m := h.d.Router.Model()
	cards := []card{baseCard(m)}
	if c := h.d.Router.Catalogue(); c != nil {
		for _, a := range c.Adapters {
			if a.Usable {
				cards = append(cards, adapterCard(m, a))
			}
		}
	}
	slices.SortFunc(cards[1:], func(a, b card) int { return strings.Compare(a.ID, b.ID) })
	status.WriteJSON(w, http.StatusOK, map[string]any{"object": "list", "data": cards})
}

// Model is GET /v1/models/{id}: whatever may stand in a request's "model".
func (h *Handler) Model(w http.ResponseWriter, id string) {
	m, c := h.d.Router.Model(), h.d.Router.Catalogue()
	choice, ok, err := face.ResolveModel(m, c, id)
	switch {
	case err != nil:
		status.Write(w, status.OpenAI, err)
	case !ok && id != "":
		status.WriteJSON(w, http.StatusOK, baseCard(m))
	default:
		var a *router.AdapterEntry
		if c != nil {
			a = c.Find(choice.Adapter)
		}
		if a == nil || !a.Usable {
			status.Write(w, status.OpenAI, &status.ModelNotFoundError{Model: id, Field: "model"})
			return
		}
		card := adapterCard(m, a)
		card.ID = choice.Adapter // a version as it was asked for
		status.WriteJSON(w, http.StatusOK, card)
	}
}

func baseCard(m router.ModelInfo) card {
	c := card{ID: m.Name, Object: "model", Created: m.Created.Unix(), OwnedBy: ownedBy, Root: m.Path}
	if n := m.Group.ContextLength; n > 0 {
		c.MaxModelLen = &n
	}
	return c
}

func adapterCard(m router.ModelInfo, a *router.AdapterEntry) card {
	return card{ID: a.Name, Object: "model", Created: a.Created, OwnedBy: ownedBy, Root: a.Source, Parent: &m.Name}
}
