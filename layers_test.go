// Package chorale_test holds the house rules that no compiler checks.
package chorale_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A rule forbids packages below From to import packages below To, except the
// packages listed.
type rule struct {
	from, to string
	except   []string
	because  string
}

const module = "chorale/"

// ours are the parts of the module in the order cmd → services → cores →
// internal → proto/gen.
var rules = []rule{
	{"router", "worker", nil, "cores never import each other: services connect them"},
	{"router", "adaptermgr", nil, "cores never import each other: services connect them"},
	{"adaptermgr", "router", nil, "cores never import each other: services connect them"},
	{"adaptermgr", "worker", nil, "cores never import each other: services connect them"},
	{"worker", "router", nil, "cores never import each other: services connect them"},
	{"worker", "adaptermgr", nil, "cores never import each other: services connect them"},

	{"router", "services", nil, "a core does not know the wire"},
	{"adaptermgr", "services", nil, "a core does not know the wire"},
	{"worker", "services", nil, "a core does not know the wire"},
	{"internal", "services", nil, "internal is shared and product-free"},
	{"internal", "router", nil, "internal is shared and product-free"},
	{"internal", "adaptermgr", nil, "internal is shared and product-free"},
	{"internal", "worker", nil, "internal is shared and product-free"},

	{"router", "proto", nil, "cores speak Go types; services convert"},
	{"adaptermgr", "proto", nil, "cores speak Go types; services convert"},
	{"worker", "proto", nil, "the worker knows only tokens"},
	{"internal", "proto", nil, "internal is shared and product-free"},
	{"router", "google.golang.org/grpc", nil, "cores speak Go types; services convert"},
	{"adaptermgr", "google.golang.org/grpc", nil, "cores speak Go types; services convert"},
	{"worker", "google.golang.org/grpc", nil, "the worker knows only tokens"},

	{"services", "cmd", nil, "cmd is wiring only"},
	{"", "go.etcd.io/bbolt", []string{"adaptermgr/store"}, "one package knows how the registry is stored"},
	{"", "github.com/minio/minio-go", []string{"adaptermgr/source"}, "one package knows object stores"},
	{"", "worker/tensor/cpu", []string{"cmd", "worker/model", "worker/engine", "tests", "worker/tensor/cpu"}, "devices are behind tensor.Backend; only wiring and tests name one"},

	{"", "worker/tensor/cuda", []string{"cmd", "worker/model", "worker/engine", "tests", "worker/tensor/cuda"}, "devices are behind tensor.Backend; only wiring and tests name one"},

	{"", "github.com/NVIDIA/go-nvml", []string{"worker/device"}, "one package asks the driver"},
	{"worker/device", "worker/tensor", nil, "what the driver tells, not what is computed"},

	{"worker/collective", "worker/tensor", nil, "bytes and floats between ranks, not what they mean"},
	{"worker/collective", "go.uber.org/zap", nil, "nothing below engine logs"},
	{"worker/group", "go.uber.org/zap", []string{"worker/group/supervise"}, "nothing below engine logs"},
	{"worker/group", "worker/engine", nil, "the engine knows ranks by an interface of its own"},
	{"worker/sched", "time", nil, "pure: no clock"},
	{"worker/kv", "time", nil, "pure: no clock"},
	{"worker/sched", "go.uber.org/zap", nil, "pure: no logger"},
	{"worker/kv", "go.uber.org/zap", nil, "pure: no logger"},
	{"worker/lora", "go.uber.org/zap", nil, "nothing below engine logs"},
	{"worker/model", "go.uber.org/zap", nil, "nothing below engine logs"},
	{"worker/tensor", "go.uber.org/zap", nil, "nothing below engine logs"},
	{"worker/sched", "worker/tensor", nil, "pure: no device"},
	{"worker/kv", "worker/tensor", nil, "pure: no device"},
}

type listed struct {
	ImportPath string
	Imports    []string
	CgoFiles   []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,CgoFiles", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		for i, im := range p.Imports {
			p.Imports[i] = strings.TrimPrefix(im, module)
		}
		all = append(all, p)
	}
}

// below tells whether a package is a folder or under it.
func below(pkg, folder string) bool {
	return folder == "" || pkg == folder || strings.HasPrefix(pkg, folder+"/")
}

func TestImportRules(t *testing.T) {
	all := packages(t)
	if len(all) < 10 {
		t.Fatalf("go list found %d packages", len(all))
	}
	for _, r := range rules {
		for _, p := range all {
			if !below(p.ImportPath, r.from) || slices.ContainsFunc(r.except, func(e string) bool { return below(p.ImportPath, e) }) {
				continue
			}
			for _, im := range p.Imports {
				if below(im, r.to) {
					t.Errorf("%s imports %s: %s", p.ImportPath, im, r.because)
				}
			}
		}
	}
}

// TestCgo: C is only in the backends, so that everything else builds, tests
// and cross-compiles without a C compiler.
func TestCgo(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.CgoFiles) > 0 && !below(p.ImportPath, "worker/tensor") {
			t.Errorf("%s uses cgo: only worker/tensor does", p.ImportPath)
		}
	}
}

// TestRulesBite: the rules would notice; a rule that names no package at all
// guards nothing.
func TestRulesBite(t *testing.T) {
	all := packages(t)
	for _, r := range rules {
		if r.from != "" && !slices.ContainsFunc(all, func(p listed) bool { return below(p.ImportPath, r.from) }) {
			t.Errorf("no package below %s: the rule %q guards nothing", r.from, r.because)
		}
	}
}
