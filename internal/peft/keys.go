package peft

import (
	"fmt"
	"strings"
)

// keyPrefix is what PEFT puts before the base model's own names.
const keyPrefix = "base_model.model."

// role is what a tensor is to its module.
type role uint8

const (
	roleA      role = iota // lora_A.weight, or lora_embedding_A
	roleB                  // lora_B.weight, or lora_embedding_B
	roleBBias              // lora_B.bias
	roleBias               // the base layer's bias, trained
	roleWeight             // the base layer's weight, saved in full
)

// place is where a tensor belongs.
type place struct {
	module    string
	role      role
	embedding bool // lora_embedding_A or _B
}

// refusedParts are the parts of a key that show an unsupported feature, which
// the config may have failed to mention.
var refusedParts = []struct{ part, what string }{
	{".lora_magnitude_vector", "DoRA"},
	{".modules_to_save", "fully trained module"},
	{".token_adapter.", "trained token embeddings"},
	{".trainable_tokens_", "trained token embeddings"},
}

// parseKey reads a tensor's name. ok is false for names that no LoRA adapter
// has; a name that shows an unsupported feature is ErrUnsupported.
//
//	base_model.model.<module>.lora_A[.<adapter>].weight        also lora_B
//	base_model.model.<module>.lora_B[.<adapter>].bias          lora_bias
//	base_model.model.<module>.lora_embedding_A[.<adapter>]     also _B
//	base_model.model.<module>[.base_layer].bias                bias = all, lora_only
//	base_model.model.<module>[.base_layer].weight              save_embedding_layers
func parseKey(name string) (p place, ok bool, err error) {
	for _, r := range refusedParts {
		if strings.Contains(name, r.part) {
			return p, false, fmt.Errorf("%w: tensor %s (%s)", ErrUnsupported, quote(name), r.what)
		}
	}
	rest, ok := strings.CutPrefix(name, keyPrefix)
	if !ok {
		return p, false, nil
	}
	if i := strings.LastIndex(rest, ".lora_"); i >= 0 {
		p.module = rest[:i]
		ok = p.parseLoRA(strings.Split(rest[i+1:], "."))
		return p, ok, nil
	}
	if p.module, ok = strings.CutSuffix(rest, ".bias"); ok {
		p.role = roleBias
	} else if p.module, ok = strings.CutSuffix(rest, ".weight"); ok {
		p.role = roleWeight
	}
	p.module = strings.TrimSuffix(p.module, ".base_layer")
	return p, ok, nil
}

// parseLoRA reads the part of a key that starts with "lora_". Adapter names
// cannot contain dots, so it has one optional element.
func (p *place) parseLoRA(parts []string) bool {
	last := parts[len(parts)-1]
	switch parts[0] {
	case "lora_embedding_A":
		p.role, p.embedding = roleA, true
		return len(parts) <= 2
	case "lora_embedding_B":
		p.role, p.embedding = roleB, true
		return len(parts) <= 2
	case "lora_A":
		p.role = roleA
		return len(parts) >= 2 && len(parts) <= 3 && last == "weight"
	case "lora_B":
		p.role = roleB
		if last == "bias" {
			p.role = roleBBias
		}
		return len(parts) >= 2 && len(parts) <= 3 && (last == "weight" || last == "bias")
	}
	return false
}

// keys returns the names that PEFT itself gives to a target's tensors.
func (t Target) keys() (a, b string) {
	if t.Module.Kind == Embedding {
		return keyPrefix + t.Module.Name + ".lora_embedding_A", keyPrefix + t.Module.Name + ".lora_embedding_B"
	}
	return keyPrefix + t.Module.Name + ".lora_A.weight", keyPrefix + t.Module.Name + ".lora_B.weight"
}
