package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReferenceIsCurrent: the committed pages are what the code says.
func TestReferenceIsCurrent(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, p := range pages {
		want, err := p.make(root)
		if err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		got, err := os.ReadFile(filepath.Join(root, "docs", "reference", p.name))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, string(got)); d != "" {
			t.Errorf("docs/reference/%s is stale: run go run ./tools/docs (-want +got):\n%s", p.name, d)
		}
	}
}

func TestParseProto(t *testing.T) {
	f := parseProto(`
// S serves.
service S {
  // Do does.
  rpc Do(stream Req) returns (Resp) {
    option (google.api.http) = {
      post: "/do"
      body: "*"
    };
  }
}
// Req asks.
message Req {
  // How many.
  optional int32 n = 1 [(buf.validate.field).int32 = {
    gte: 0
    lte: 9
  }];
  oneof kind {
    option (buf.validate.oneof).required = true;
    string a = 2;
  }
  map<string, double> m = 3;
}
// E lists.
enum E {
  E_ZERO = 0; // nothing
}
`)
	want := []decl{
		{Kind: "service", Name: "S", Doc: "S serves.", Items: []item{{Name: "Do", Type: "stream Req → Resp", HTTP: "POST /do", Doc: "Do does."}}},
		{Kind: "message", Name: "Req", Doc: "Req asks.", Items: []item{
			{Name: "n", Type: "optional int32", Rule: "≥ 0, ≤ 9", Doc: "How many."},
			{Name: "a", Type: "string", Group: "kind"},
			{Name: "m", Type: "map<string, double>"},
		}},
		{Kind: "enum", Name: "E", Doc: "E lists.", Items: []item{{Name: "E_ZERO", Type: "0"}}},
	}
	if d := cmp.Diff(want, f); d != "" {
		t.Error(d)
	}
}
