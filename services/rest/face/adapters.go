package face

import (
	"cmp"
	"net/http"
	"strings"

	"chorale/internal/adapterref"
	"chorale/router"
)

const (
	// UserHeader gives a request's user where its body does not.
	UserHeader = "X-Chorale-User"
	// AdapterHeader tells who answers.
	AdapterHeader = "X-Chorale-Adapter"
)

// User is whose request it is: as the body says, or else the header. Where an
// adapter's versions share its requests, a user keeps to one.
func User(r *http.Request, given string) string { return cmp.Or(given, r.Header.Get(UserHeader)) }

// TellAdapters names in the answer's header who answers, "name@3;sha256:…", each
// once, in the order of the prompts. The base model is not named.
func TellAdapters(w http.ResponseWriter, handles []*router.Handle) {
	const most = 32 // a header has its limits
	seen := map[string]bool{}
	var names []string
	for _, h := range handles {
		if h.Adapter == "" || seen[h.Adapter+h.Digest] || len(names) == most {
			continue
		}
		seen[h.Adapter+h.Digest] = true
		name := h.Adapter
		if h.Version != 0 {
			name = adapterref.Format(h.Adapter, h.Version)
		}
		names = append(names, escape(name)+";"+h.Digest)
	}
	if len(names) > 0 {
		w.Header().Set(AdapterHeader, strings.Join(names, ", "))
	}
}

// escape writes what a header may not hold, or would take for something else,
// as URLs do.
func escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`%,;"\\`, c) >= 0 {
			const hex = "0123456789ABCDEF"
			b.WriteString(string([]byte{'%', hex[c>>4], hex[c&15]}))
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
