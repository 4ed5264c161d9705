package peft

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// digestVersion changes whenever the canonical form does, so that digests of
// different forms never meet.
const digestVersion = "chorale-adapter-1\n"

// canonical is the part of a Config that decides the forward pass. Sets are
// sorted (PEFT writes Python sets, whose order is random), rules keep their
// order since the first match wins.
type canonical struct {
	Alpha             float64  `json:"alpha"`
	AlphaPattern      []Rule   `json:"alpha_pattern"`
	Bias              string   `json:"bias"`
	EnsureWeightTying bool     `json:"ensure_weight_tying"`
	Exclude           Selector `json:"exclude_modules"`
	LayersPattern     []string `json:"layers_pattern"`
	Layers            []int    `json:"layers_to_transform"`
	LoRABias          bool     `json:"lora_bias"`
	R                 int      `json:"r"`
	RankPattern       []Rule   `json:"rank_pattern"`
	RSLoRA            bool     `json:"rslora"`
	Target            Selector `json:"target_modules"`
}

// Digest identifies an adapter: "sha256:" and 64 hexadecimal digits over a
// version line, the canonical config as one line of JSON, and the bytes of
// weights (adapter_model.safetensors as it is). Two configs that differ only
// in formatting, order of sets, or fields without influence on the forward pass
// (names, versions, dropout, …) have the same digest. A config that ParseConfig
// refuses gives its error, a failing reader its own.
func Digest(config []byte, weights io.Reader) (string, error) {
	c, err := ParseConfig(config)
	if err != nil {
		return "", err
	}
	form, err := json.Marshal(canonical{
		Alpha: c.Alpha, AlphaPattern: c.AlphaPattern, Bias: c.Bias, EnsureWeightTying: c.EnsureWeightTying,
		Exclude: c.ExcludeModules.sorted(), LayersPattern: c.LayersPattern, Layers: sortedSet(c.LayersToTransform),
		LoRABias: c.LoRABias, R: c.R, RankPattern: c.RankPattern, RSLoRA: c.RSLoRA, Target: c.TargetModules.sorted(),
	})
	if err != nil {
		return "", fmt.Errorf("peft: digest: %w", err)
	}
	h := sha256.New()
	h.Write([]byte(digestVersion))
	h.Write(append(form, '\n'))
	if _, err := io.Copy(h, weights); err != nil {
		return "", fmt.Errorf("peft: digest: weights: %w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func (s Selector) sorted() Selector {
	s.List = sortedSet(s.List)
	return s
}

func sortedSet[T int | string](v []T) []T {
	v = slices.Clone(v)
	slices.Sort(v)
	return slices.Compact(v)
}
