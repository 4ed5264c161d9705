package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"chorale/adaptermgr"
	"chorale/internal/peft"
	"chorale/router"
)

// TestInfer: limits that no flag gives are those of the adapters that the
// server starts with; given ones stay, "all" modules too.
func TestInfer(t *testing.T) {
	from := []adaptermgr.Adapter{
		{MaxRank: 4, TargetModules: []string{"q_proj", "v_proj"}},
		{MaxRank: 12, TargetModules: []string{"down_proj", "q_proj"}},
	}
	for _, c := range []struct {
		name  string
		given adapterLimits
		want  peft.Limits
	}{
		{"nothing given", adapterLimits{}, peft.Limits{MaxRank: 12, TargetModules: []string{"down_proj", "q_proj", "v_proj"}}},
		{"rank given", adapterLimits{Limits: peft.Limits{MaxRank: 64}}, peft.Limits{MaxRank: 64, TargetModules: []string{"down_proj", "q_proj", "v_proj"}}},
		{"all modules given", adapterLimits{modulesGiven: true}, peft.Limits{MaxRank: 12}},
		{
			"both given",
			adapterLimits{Limits: peft.Limits{MaxRank: 8, TargetModules: []string{"o_proj"}}, modulesGiven: true},
			peft.Limits{MaxRank: 8, TargetModules: []string{"o_proj"}},
		},
	} {
		if diff := cmp.Diff(c.want, infer(c.given, from)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// TestCheckNames: an adapter that is called like the base model would hide it.
func TestCheckNames(t *testing.T) {
	m := router.ModelInfo{Name: "base", Path: "/m/base.gguf"}
	for _, name := range []string{"base", "default", "/m/base.gguf"} {
		r := &managerRole{initial: []initial{{Name: "a", Path: "a"}, {Name: name, Path: "b"}}}
		if err := r.checkNames(m); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := (&managerRole{initial: []initial{{Name: "a", Path: "a"}}}).checkNames(m); err != nil {
		t.Error(err)
	}
}
