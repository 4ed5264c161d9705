package peft

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// conf is a minimal config with more members.
func conf(members string) string {
	s := `{"peft_type":"LORA"`
	if !strings.Contains(members, `"target_modules"`) {
		s += `,"target_modules":["q_proj"]`
	}
	if members != "" {
		s += "," + members
	}
	return s + "}"
}

func TestParseConfigRefuses(t *testing.T) {
	manyRules := `"rank_pattern":{` + strings.TrimSuffix(strings.Repeat(`"(@)":1,`, maxRegexps+1), ",") + `}`
	for i := 0; strings.Contains(manyRules, "@"); i++ {
		manyRules = strings.Replace(manyRules, "@", strings.Repeat("x", i%50)+string(rune('a'+i%26))+strings.Repeat("y", i/50), 1)
	}
	tests := []struct {
		name, in string
		want     error
		text     string
	}{
		{"empty", ``, ErrConfig, "object"},
		{"not JSON", `{"peft_type":`, ErrConfig, "peft_type"},
		{"list", `[]`, ErrConfig, "object"},
		{"text behind", conf("") + "x", ErrConfig, "after"},
		{"cut", `{"peft_type":"LORA"`, ErrConfig, "byte"},
		{"member twice", conf(`"r":1,"r":2`), ErrConfig, "r: appears twice"},
		{"too long", conf(`"x":"` + strings.Repeat("x", maxConfig) + `"`), ErrConfig, "at most"},
		{"no type", `{"target_modules":["q"]}`, ErrConfig, "peft_type"},
		{"other type", `{"peft_type":"ADALORA"}`, ErrUnsupported, "ADALORA"},
		{"type of type", conf(`"x":1`)[:1] + `"peft_type":1}`, ErrConfig, "peft_type: is 1, want a string"},
		{"r zero", conf(`"r":0`), ErrConfig, "r: is 0"},
		{"r negative", conf(`"r":-4`), ErrConfig, "r: is -4"},
		{"r fraction", conf(`"r":8.0`), ErrConfig, "r: is 8.0, want an integer"},
		{"r string", conf(`"r":"8"`), ErrConfig, `r: is "8", want an integer`},
		{"r null", conf(`"r":null`), ErrConfig, "r: is null"},
		{"r huge", conf(`"r":99999999999999999999`), ErrConfig, "want an integer"},
		{"alpha NaN", conf(`"lora_alpha":NaN`), ErrConfig, "lora_alpha"},
		{"alpha Infinity", conf(`"lora_alpha":Infinity`), ErrConfig, "lora_alpha"},
		{"alpha overflows", conf(`"lora_alpha":1e999`), ErrConfig, "lora_alpha"},
		{"alpha string", conf(`"lora_alpha":"8"`), ErrConfig, "lora_alpha"},
		{"alpha null", conf(`"lora_alpha":null`), ErrConfig, "lora_alpha"},
		{"rslora string", conf(`"use_rslora":"yes"`), ErrConfig, "use_rslora"},
		{"bias", conf(`"bias":"some"`), ErrConfig, `bias: is "some"`},
		{"targets missing", `{"peft_type":"LORA"}`, ErrConfig, "target_modules"},
		{"targets null", conf(`"target_modules":null`), ErrConfig, "target_modules"},
		{"targets empty", conf(`"target_modules":[]`), ErrConfig, "target_modules"},
		{"targets empty string", conf(`"target_modules":""`), ErrConfig, "target_modules"},
		{"targets number", conf(`"target_modules":3`), ErrConfig, "target_modules: is 3"},
		{"targets object", conf(`"target_modules":{}`), ErrConfig, "target_modules"},
		{"target number", conf(`"target_modules":["q",3]`), ErrConfig, "target_modules[1]: is 3, want a string"},
		{"exclude number", conf(`"exclude_modules":[null]`), ErrConfig, "exclude_modules[0]"},
		{"bad regex", conf(`"target_modules":"("`), ErrConfig, "target_modules: bad regular expression"},
		{"regex closes our group", conf(`"target_modules":"a)|(b"`), ErrConfig, "target_modules"},
		{"bad exclude regex", conf(`"exclude_modules":"*"`), ErrConfig, "exclude_modules"},
		{"bad rank regex", conf(`"rank_pattern":{"[":4}`), ErrConfig, `rank_pattern["["]`},
		{"regex too long", conf(`"target_modules":"` + strings.Repeat("(a)", maxRegexp) + `"`), ErrConfig, "at most"},
		{"too many regexes", conf(manyRules), ErrConfig, "more than"},
		{"rank zero", conf(`"rank_pattern":{"q":0}`), ErrConfig, `rank_pattern["q"]`},
		{"rank fraction", conf(`"rank_pattern":{"q":1.5}`), ErrConfig, `rank_pattern["q"]`},
		{"rank twice", conf(`"rank_pattern":{"q":1,"q":2}`), ErrConfig, "rank_pattern"},
		{"rank list", conf(`"rank_pattern":[1]`), ErrConfig, "rank_pattern"},
		{"alpha rule string", conf(`"alpha_pattern":{"q":"2"}`), ErrConfig, `alpha_pattern["q"]`},
		{"layers string", conf(`"layers_to_transform":"1"`), ErrConfig, "layers_to_transform"},
		{"layers fraction", conf(`"layers_to_transform":[1,2.5]`), ErrConfig, "layers_to_transform[1]"},
		{"layers true", conf(`"layers_to_transform":true`), ErrConfig, "layers_to_transform"},
		{"layers with regex", conf(`"target_modules":"q","layers_to_transform":1`), ErrConfig, "layers_to_transform: needs"},
		{"layers with all-linear", conf(`"target_modules":"all-linear","layers_to_transform":[]`), ErrConfig, "layers_to_transform"},
		{"pattern with regex", conf(`"target_modules":"q","layers_pattern":[]`), ErrConfig, "layers_pattern"},
		{"pattern without layers", conf(`"layers_pattern":"h"`), ErrConfig, "layers_pattern: needs"},
		{"bad layers regex", conf(`"layers_to_transform":1,"layers_pattern":"("`), ErrConfig, "layers_pattern"},
		{"init number", conf(`"init_lora_weights":3`), ErrConfig, "init_lora_weights"},
		{"base model number", conf(`"base_model_name_or_path":3`), ErrConfig, "base_model_name_or_path"},

		{"DoRA", conf(`"use_dora":true`), ErrUnsupported, "use_dora (DoRA)"},
		{"modules_to_save", conf(`"modules_to_save":["lm_head"]`), ErrUnsupported, "modules_to_save"},
		{"trained tokens", conf(`"trainable_token_indices":{"embed_tokens":[1]}`), ErrUnsupported, "trainable_token_indices"},
		{"parameters", conf(`"target_parameters":["experts"]`), ErrUnsupported, "target_parameters"},
		{"replication", conf(`"layer_replication":[[0,4],[2,5]]`), ErrUnsupported, "layer_replication"},
		{"Megatron", conf(`"megatron_config":{"x":1}`), ErrUnsupported, "megatron_config"},
		{"aLoRA", conf(`"alora_invocation_tokens":[1]`), ErrUnsupported, "alora"},
		{"QALoRA", conf(`"use_qalora":true`), ErrUnsupported, "use_qalora"},
		{"BD-LoRA", conf(`"use_bdlora":{"nblocks":2}`), ErrUnsupported, "use_bdlora"},
		{"Arrow", conf(`"arrow_config":{}`), ErrUnsupported, "arrow_config"},
		{"KaSA", conf(`"kasa_config":{"beta":1}`), ErrUnsupported, "kasa_config"},
		{"unknown variant", conf(`"use_newlora":true`), ErrUnsupported, "use_newlora"},
		{"PiSSA", conf(`"init_lora_weights":"pissa"`), ErrUnsupported, "pissa"},
		{"PiSSA fast", conf(`"init_lora_weights":"pissa_niter_16"`), ErrUnsupported, "pissa_niter_16"},
		{"OLoRA", conf(`"init_lora_weights":"OLoRA"`), ErrUnsupported, "OLoRA"},
		{"CorDA", conf(`"init_lora_weights":"corda"`), ErrUnsupported, "corda"},
		{"LoftQ", conf(`"init_lora_weights":"loftq"`), ErrUnsupported, "loftq"},
		{"LoRA-GA", conf(`"init_lora_weights":"lora_ga"`), ErrUnsupported, "lora_ga"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseConfig([]byte(tt.in))
			if c != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %.300v, want %v with %q", err, tt.want, tt.text)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestParseConfigAccepts(t *testing.T) {
	got, err := ParseConfig([]byte(`{
		"peft_type": "LORA", "base_model_name_or_path": "org/base", "revision": null, "peft_version": "0.19.0",
		"r": 16, "lora_alpha": 2.5, "use_rslora": true, "lora_dropout": 0.1, "inference_mode": true,
		"rank_pattern": {"z": 1, "a": 2}, "alpha_pattern": {}, "target_modules": ["q_proj", "k_proj"],
		"exclude_modules": "x.*", "layers_to_transform": [3, 1], "layers_pattern": "layers", "bias": "lora_only",
		"lora_bias": true, "fan_in_fan_out": true, "init_lora_weights": "gaussian", "ensure_weight_tying": false,
		"megatron_config": null, "megatron_core": "megatron.core", "loftq_config": {}, "modules_to_save": [],
		"use_dora": false, "use_qalora": false, "qalora_group_size": 16, "eva_config": {"rho": 2},
		"runtime_config": {"x": 1}, "use_new": false, "something": {"nested": [1, 2, {}]}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		BaseModel: "org/base", PEFTVersion: "0.19.0", R: 16, Alpha: 2.5, RSLoRA: true,
		RankPattern: []Rule{{"z", 1}, {"a", 2}}, TargetModules: Selector{List: []string{"q_proj", "k_proj"}},
		ExcludeModules: Selector{Regexp: "x.*"}, LayersToTransform: []int{3, 1}, LayersPattern: []string{"layers"},
		Bias: BiasLoRAOnly, LoRABias: true, FanInFanOut: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	least, err := ParseConfig([]byte(conf("")))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&Config{R: 8, Alpha: 8, TargetModules: Selector{List: []string{"q_proj"}}, Bias: BiasNone}, least); diff != "" {
		t.Error(diff)
	}
}

// layers is a base of n layers with a linear layer q_proj and v_proj each,
// an embedding and a head.
func layers(n int) []Module {
	base := []Module{{Name: "model.embed_tokens", In: 20, Out: 16, Kind: Embedding}}
	for i := range n {
		name := "model.layers." + string(rune('0'+i)) + ".self_attn."
		base = append(base, Module{Name: name + "q_proj", In: 16, Out: 16}, Module{Name: name + "v_proj", In: 16, Out: 8, HasBias: true})
	}
	return append(base, Module{Name: "lm_head", In: 16, Out: 20, Kind: Head})
}

func TestTargetsRefuses(t *testing.T) {
	tests := []struct {
		name, members string
		want          error
		text          string
	}{
		{"unknown module", `"target_modules":["q_proj","c_attn"]`, ErrTarget, `no module "c_attn"`},
		{"many unknown", `"target_modules":["a","b","c","d","e"]`, ErrTarget, `"a", "b", "c" and 2 more`},
		{"no suffix without a dot", `"target_modules":["proj"]`, ErrTarget, "proj"},
		{"regex is no prefix match", `"target_modules":"model"`, ErrTarget, "none"},
		{"all excluded", `"exclude_modules":".*"`, ErrTarget, "none"},
		{"no such layer", `"layers_to_transform":9`, ErrTarget, "none"},
		{"tying", `"target_modules":["q_proj","embed_tokens"],"ensure_weight_tying":true`, ErrUnsupported, "embed_tokens"},
	}
	for _, tt := range tests {
		c, err := ParseConfig([]byte(conf(tt.members)))
		if err != nil {
			t.Fatal(tt.name, err)
		}
		if _, err := c.Targets(layers(2)); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %v with %q", tt.name, err, tt.want, tt.text)
		}
	}
}

// TestHostileRegexp: catastrophic backtracking ends in an error, not in a hang.
func TestHostileRegexp(t *testing.T) {
	c, err := ParseConfig([]byte(conf(`"target_modules":"(?=(\\w|\\w\\w|.)+#)((\\w|\\w\\w|.)+)+#"`)))
	if err != nil {
		t.Fatal(err)
	}
	base := []Module{{Name: strings.Repeat("a", 200), In: 1, Out: 1}}
	start := time.Now()
	if _, err := c.Targets(base); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "too long") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("took %v", d)
	}
}

func TestDigest(t *testing.T) {
	digest := func(members, weights string) string {
		d, err := Digest([]byte(conf(members)), strings.NewReader(weights))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	base := digest(`"target_modules":["a","b"],"r":4`, "weights")
	same := []string{
		`"target_modules":["b","a"],"r":4`, `"r":4,"target_modules":["a","b","a"]`,
		`"r":4,"target_modules":["a","b"],"lora_dropout":0.5,"base_model_name_or_path":"x","peft_version":"1","fan_in_fan_out":true`,
		`"r":4,"target_modules":["a","b"],"lora_alpha":8.0,"bias":"none","rank_pattern":{},"exclude_modules":null,"layers_to_transform":[]`,
	}
	for _, m := range same {
		if d := digest(m, "weights"); d != base {
			t.Errorf("%s: %s differs from %s", m, d, base)
		}
	}
	seen := map[string]string{base: "base"}
	different := []string{
		`"target_modules":["a","b"],"r":5`, `"target_modules":["a"],"r":4`, `"target_modules":"a","r":4`,
		`"target_modules":["a","b"],"r":4,"lora_alpha":9`, `"target_modules":["a","b"],"r":4,"use_rslora":true`,
		`"target_modules":["a","b"],"r":4,"rank_pattern":{"x":1,"y":2}`, `"target_modules":["a","b"],"r":4,"rank_pattern":{"y":2,"x":1}`,
		`"target_modules":["a","b"],"r":4,"alpha_pattern":{"x":1}`, `"target_modules":["a","b"],"r":4,"exclude_modules":["c"]`,
		`"target_modules":["a","b"],"r":4,"layers_to_transform":1`, `"target_modules":["a","b"],"r":4,"layers_to_transform":1,"layers_pattern":"h"`,
		`"target_modules":["a","b"],"r":4,"bias":"all"`, `"target_modules":["a","b"],"r":4,"lora_bias":true`,
		`"target_modules":"all-linear","r":4`,
	}
	for _, m := range different {
		d := digest(m, "weights")
		if other, dup := seen[d]; dup {
			t.Errorf("%s has the digest of %s", m, other)
		}
		seen[d] = m
	}
	if digest(`"target_modules":["a","b"],"r":4`, "weightz") == base {
		t.Error("weights do not count")
	}
	if len(base) != len("sha256:")+64 || !strings.HasPrefix(base, "sha256:") {
		t.Errorf("digest %q", base)
	}
	if _, err := Digest([]byte("{}"), strings.NewReader("")); !errors.Is(err, ErrConfig) {
		t.Errorf("bad config: %v", err)
	}
	if _, err := Digest([]byte(conf("")), failing{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("failing reader: %v", err)
	}
}

// TestVerify: both versions of a digest are known, of weights of any number of
// blocks, read in any pieces.
func TestVerify(t *testing.T) {
	config := []byte(conf(`"r":4`))
	form, err := canonicalForm(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, digestBlock - 1, digestBlock, digestBlock + 1, 17*digestBlock + 5} {
		weights := bytes.Repeat([]byte("Ab3"), n/3+1)[:n]
		d, err := Digest(config, iotest.HalfReader(bytes.NewReader(weights)))
		if err != nil {
			t.Fatal(err)
		}
		if err := Verify(d, config, weights); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err := Verify(digestOf(firstVersion, form, weights), config, weights); err != nil {
			t.Errorf("%d bytes, first version: %v", n, err)
		}
		if err := Verify(d, config, append(weights, 0)); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), d) {
			t.Errorf("%d bytes and one more: %v", n, err)
		}
		if n > 0 {
			weights[n-1]++
			if err := Verify(d, config, weights); !errors.Is(err, ErrDigest) {
				t.Errorf("%d bytes, the last one changed: %v", n, err)
			}
		}
	}
	if err := Verify("", []byte("{}"), nil); !errors.Is(err, ErrConfig) {
		t.Errorf("bad config: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, os.ErrClosed }

func TestLocateRefuses(t *testing.T) {
	dir := t.TempDir()
	touch := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Locate(dir); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), ConfigFile) {
		t.Errorf("empty folder: %v", err)
	}
	touch(ConfigFile)
	if _, _, err := Locate(dir); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), WeightsFile) {
		t.Errorf("no weights: %v", err)
	}
	touch(PickleFile)
	if _, _, err := Locate(dir); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "pickle") {
		t.Errorf("pickle: %v", err)
	}
	touch(WeightsFile)
	if _, _, err := Locate(dir); err != nil {
		t.Errorf("both: %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, c := range loadGoldens(f).Cases {
		f.Add([]byte(c.Config))
	}
	f.Add([]byte(conf(`"rank_pattern":{"(?=a)b":2},"alpha_pattern":{"x.y":0.5}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			if c != nil || !(errors.Is(err, ErrConfig) || errors.Is(err, ErrUnsupported)) {
				t.Fatalf("config %v, error %v", c, err)
			}
			return
		}
		targets, err := c.Targets(layers(3))
		if err != nil && !errors.Is(err, ErrConfig) && !errors.Is(err, ErrTarget) && !errors.Is(err, ErrUnsupported) {
			t.Fatal(err)
		}
		for _, target := range targets {
			if target.R <= 0 || target.Scale-target.Scale != 0 {
				t.Fatalf("%+v", target)
			}
		}
	})
}

func BenchmarkTargets(b *testing.B) {
	// A 32 layer model with a rank rule per module, as EVA writes them.
	var base []Module
	var rules []Rule
	for i := range 32 {
		for _, p := range []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"} {
			name := "model.layers." + strings.Repeat("1", i/10) + string(rune('0'+i%10)) + "." + p
			base = append(base, Module{Name: name, In: 1, Out: 1})
			rules = append(rules, Rule{name, 4})
		}
	}
	c := &Config{R: 8, Alpha: 8, TargetModules: Selector{AllLinear: true}, RankPattern: rules}
	for b.Loop() {
		if _, err := c.Targets(base); err != nil {
			b.Fatal(err)
		}
	}
}
