package client

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	choralev1 "chorale/proto/gen/chorale/v1"
)

func TestVersions(t *testing.T) {
	var seen []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen = append(seen, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+string(b)))
		io.WriteString(w, `{"adapter":{"name":"x"}}`)
	})
	ctx := t.Context()
	if a, err := c.Adapter(ctx, "a/b c"); err != nil || a.GetName() != "x" {
		t.Errorf("%v, %v", a, err)
	}
	in := &choralev1.UpdateAdapterRequest{Name: "a", Etag: "7"}
	if r, err := c.Update(ctx, in); err != nil || r.GetAdapter().GetName() != "x" || in.GetName() != "a" {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := c.Canary(ctx, &choralev1.CanaryAdapterRequest{Name: "a", Version: 2}); err != nil || r.GetAdapter().GetName() != "x" {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := c.Rollback(ctx, &choralev1.RollbackAdapterRequest{Name: "a"}); err != nil || r.GetAdapter().GetName() != "x" {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := c.Unload(ctx, &choralev1.UnloadAdapterRequest{
		Name: "a@1", DrainTimeout: durationpb.New(1500 * time.Millisecond), AllowMissing: true, Etag: "7", RequestId: "i",
	}); err != nil {
		t.Error(err)
	}
	if _, err := c.AdaptersOf(ctx, "me", map[string]string{"k": "v"}); err != nil {
		t.Error(err)
	}
	want := []string{
		"GET /chorale/v1/adapters/a/b%20c",
		`PATCH /chorale/v1/adapters/a {"etag":"7"}`,
		`POST /chorale/v1/adapters:canary {"name":"a","version":"2"}`,
		`POST /chorale/v1/adapters:rollback {"name":"a"}`,
		"DELETE /chorale/v1/adapters/a@1?allow_missing=true&drain_timeout=1.5s&etag=7&request_id=i",
		"GET /chorale/v1/adapters?labels%5Bk%5D=v&owner=me&page_size=1000",
	}
	for i := range seen { // protojson varies its blanks
		seen[i] = strings.ReplaceAll(strings.ReplaceAll(seen[i], `": "`, `":"`), `", "`, `","`)
	}
	if d := cmp.Diff(want, seen); d != "" {
		t.Error(d)
	}
}

func TestWatch(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("from_revision") == "9" {
			io.WriteString(w, `{"error":{"code":11,"message":"too old"}}`+"\n")
			return
		}
		io.WriteString(w, `{"result":{"revision":"7","snapshot":true,"adapters":[{"name":"a"}]}}`+"\n\n"+`{"result":{"revision":"8","removed":["a"],"later":1}}`+"\n")
	})
	var got []uint64
	err := c.Watch(t.Context(), 0, func(m *choralev1.WatchAdaptersResponse) error {
		got = append(got, m.GetRevision())
		return nil
	})
	if err != nil || !cmp.Equal(got, []uint64{7, 8}) {
		t.Errorf("%v, %v", got, err)
	}
	stop := errors.New("stop")
	if err := c.Watch(t.Context(), 0, func(*choralev1.WatchAdaptersResponse) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("err = %v", err)
	}
	if err := c.Watch(t.Context(), 9, nil); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("err = %v", err)
	}
}
