package rest

import (
	"net/http"
	"slices"
	"strings"

	"chorale/services/auth"
	"chorale/services/rest/face"
	"chorale/services/status"
)

// origins say which web pages may call. A browser carries whatever a page sends
// to a server on its user's machine or network: pages of other origins are
// refused unless they are named, and never administer. Programs that are no
// browsers send no origin and do not notice.
type origins struct {
	allowed []string
	guard   *http.CrossOriginProtection
}

func newOrigins(allowed []string) *origins {
	return &origins{allowed, http.NewCrossOriginProtection()}
}

// exposed are the headers of answers that pages may read.
var exposed = strings.Join([]string{face.RequestIDHeader, face.AdapterHeader, "Retry-After"}, ", ")

// preflightAge is how many seconds a browser keeps what a preflight told it.
const preflightAge = "600"

// check lets a request pass (nil), or answers a browser's question whether a
// page may send one (done).
func (o *origins) check(w http.ResponseWriter, r *http.Request, rt *route) (done bool, err error) {
	origin := r.Header.Get("Origin")
	if origin == "" || rt == nil || rt.levelOf(r) == auth.Admin || !o.names(origin) {
		return false, o.refuse(r)
	}
	h := w.Header()
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", exposed)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false, nil
	}
	h.Set("Access-Control-Allow-Methods", strings.Join(rt.methods, ", "))
	if headers := r.Header.Get("Access-Control-Request-Headers"); headers != "" {
		h.Set("Access-Control-Allow-Headers", headers)
	}
	h.Set("Access-Control-Max-Age", preflightAge)
	w.WriteHeader(http.StatusNoContent)
	return true, nil
}

func (o *origins) names(origin string) bool {
	return slices.Contains(o.allowed, "*") || slices.Contains(o.allowed, origin)
}

func (o *origins) refuse(r *http.Request) error {
	if o.guard.Check(r) == nil {
		return nil
	}
	return status.ErrOrigin
}
