// Package shape names the model shapes that benchmarks compute without any
// weights: presets, or a config.json.
package shape

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chorale/worker/model"
	"chorale/worker/model/decoder"
	"chorale/worker/model/hfconfig"
)

// ErrShape marks a shape that is neither a preset nor a readable config.json.
var ErrShape = errors.New("bench: model shape")

//go:embed presets/*.json
var presets embed.FS

// Presets lists the names that Find knows.
func Presets() []string {
	files, err := presets.ReadDir("presets")
	if err != nil {
		panic(err) // it is in the binary
	}
	var out []string
	for _, f := range files {
		out = append(out, strings.TrimSuffix(f.Name(), ".json"))
	}
	return out
}

// Model is a model's shape.
type Model struct {
	Name string       `json:"name"`
	Spec decoder.Spec `json:"-"`
	// Parameters and Bytes (bfloat16) of the weights.
	Parameters int64 `json:"parameters"`
	Bytes      int64 `json:"bytes"`
	// Config is its config.json.
	Config []byte `json:"-"`
}

// Find reads a preset, a config.json or the folder that holds one.
func Find(name string) (Model, error) {
	var text []byte
	var err error
	if slices.Contains(Presets(), name) {
		text, err = presets.ReadFile("presets/" + name + ".json")
	} else {
		path := name
		if st, e := os.Stat(path); e == nil && st.IsDir() {
			path = filepath.Join(path, "config.json")
		}
		if text, err = os.ReadFile(path); errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%s is no file and none of %s", name, strings.Join(Presets(), ", "))
		}
	}
	if err != nil {
		return Model{}, fmt.Errorf("%w: %w", ErrShape, err)
	}
	cfg, err := hfconfig.Parse(text)
	if err != nil {
		return Model{}, fmt.Errorf("%w: %s: %w", ErrShape, name, err)
	}
	spec, err := model.Spec(cfg)
	if err != nil {
		return Model{}, fmt.Errorf("%w: %s: %w", ErrShape, name, err)
	}
	n := spec.Parameters()
	return Model{Name: name, Spec: spec, Parameters: n, Bytes: 2 * n, Config: text}, nil
}

// Role is what a layer does with a product's result.
type Role uint8

// The roles.
const (
	Plain  Role = iota // nothing that is known
	QKV                // norms, rotates and caches q and k
	AddOut             // adds it to the residual and norms that: o and down
	GateUp             // silu(gate)·up
)

// Product is one matrix product y [B, Out] = x [B, In] · Wᵀ of a layer. Parts
// are the columns of the modules that are fused in it, each with an adapter of
// its own.
type Product struct {
	Name  string `json:"name"`
	In    int    `json:"in"`
	Parts []int  `json:"parts"`
	Role  Role   `json:"-"`
}

// Out is the sum of the parts.
func (p Product) Out() int {
	n := 0
	for _, w := range p.Parts {
		n += w
	}
	return n
}

// PerRank counts the LoRA parameters per unit of rank: each part has A [r, in]
// and B [out, r].
func (p Product) PerRank() int { return len(p.Parts)*p.In + p.Out() }

// String is "name in→out".
func (p Product) String() string { return fmt.Sprintf("%s %d→%d", p.Name, p.In, p.Out()) }

// Products lists a layer's matrix products in their order.
func Products(s *decoder.Spec) []Product {
	q, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	return []Product{
		{"qkv", s.Hidden, []int{q, kv, kv}, QKV},
		{"o", q, []int{s.Hidden}, AddOut},
		{"gate/up", s.Hidden, []int{s.FFN, s.FFN}, GateUp},
		{"down", s.FFN, []int{s.Hidden}, AddOut},
	}
}

// PerRank counts a whole adapter's parameters per unit of rank, all seven
// linear modules of every layer.
func PerRank(s *decoder.Spec) int64 {
	n := 0
	for _, p := range Products(s) {
		n += p.PerRank()
	}
	return int64(n) * int64(s.Layers)
}
