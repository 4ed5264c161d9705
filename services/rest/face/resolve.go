package face

import (
	"errors"
	"strings"

	"chorale/router"
	"chorale/services/status"
)

// Choice is the adapter that a request asked for.
type Choice struct {
	// Adapter is its name, "" for the base model.
	Adapter string
	// Given is how the client said it, Field where.
	Given, Field string
}

// ResolveModel turns OpenAI's "model" into an adapter: an adapter's exact name,
// "base:adapter", or a name of the base model. ok is false when model leaves
// the choice to others (it names the base model, or nothing).
//
// A name that is nothing of this is taken for an adapter: the router alone
// knows whether it can be brought back, and refuses what it has never seen.
func ResolveModel(m router.ModelInfo, c *router.Catalogue, model string) (choice Choice, ok bool, err error) {
	choice = Choice{Adapter: model, Given: model, Field: "model"}
	if model == "" {
		return choice, false, nil
	}
	if c != nil && c.Find(model) != nil {
		return choice, true, nil
	}
	if m.IsBase(model) {
		return Choice{}, false, nil
	}
	if adapter, found := cutBase(m, model); found {
		choice.Adapter = adapter
		return choice, adapter != "", nil
	}
	if !m.LoRAEnabled {
		return choice, false, &status.ModelNotFoundError{Model: model, Field: "model"}
	}
	return choice, true, nil
}

// cutBase cuts "base:adapter" behind the base model's name, which may itself
// hold colons (a path). Blanks around the colon do not count.
func cutBase(m router.ModelInfo, model string) (adapter string, ok bool) {
	for i := 0; i < len(model); i++ {
		if model[i] == ':' && m.IsBase(strings.TrimSpace(model[:i])) {
			return strings.TrimSpace(model[i+1:]), true
		}
	}
	return "", false
}

// Explain turns the router's refusal of an adapter into OpenAI's: the model
// does not exist. Other errors stay as they are.
func Explain(err error, choices []Choice) error {
	if !errors.Is(err, router.ErrUnknownAdapter) {
		return err
	}
	var unknown *router.UnknownAdapterError
	for _, c := range choices {
		if c.Adapter == "" || errors.As(err, &unknown) && unknown.Name != c.Adapter {
			continue
		}
		cause := router.ErrUnknownAdapter
		if unknown != nil {
			cause = unknown
		}
		return &status.ModelNotFoundError{Model: c.Given, Field: c.Field, Err: cause}
	}
	return err
}
