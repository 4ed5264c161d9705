// Package hubtest serves repositories by the Hugging Face hub's protocol from
// memory, for tests: listing, HEAD and GET on resolve, LFS files on a second
// host standing for the CDN, Range, tokens, and faults on demand.
package hubtest

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Repo is one repository.
type Repo struct {
	// Files by path. *.safetensors, *.gguf and *.bin are kept in LFS.
	Files map[string][]byte
	// Branch that exists beside the commit hash, default "main".
	Branch string
	// Private repositories need the server's token (else 401 RepoNotFound).
	Private bool
	// Gated repositories refuse everybody (403 GatedRepo).
	Gated bool
	// Listed names appear in the listing although there are no such files.
	Listed []string
}

// Commit returns the repository's commit hash, which depends on its files.
func (r Repo) Commit() string {
	h := sha1.New()
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		fmt.Fprintf(h, "%s\x00%x", name, sha256.Sum256(r.Files[name]))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Fault makes the server misbehave for one file. Its fields apply to GET
// unless said otherwise.
type Fault struct {
	// Times that the fault shows before the file is served properly; 0: always.
	Times int
	// Status answers with this code instead of the file.
	Status int
	// CutAfter ends the connection after so many bytes of the body.
	CutAfter int
	// StallAfter sends so many bytes and then none until the client goes.
	StallAfter int
	// IgnoreRange answers 200 with the whole file.
	IgnoreRange bool
	// Corrupt flips the first byte of each answer's body.
	Corrupt bool
	// Extra bytes follow the file.
	Extra int
	// LinkedSize replaces the size that HEAD announces.
	LinkedSize int64
	// NoETag leaves the etag off HEAD's answer.
	NoETag bool
}

// Request is one request that the server saw.
type Request struct {
	// Host is "hub" or "cdn".
	Host, Method, Path string
	// Range and Authorization are the headers of these names.
	Range, Authorization string
}

// Server is a hub with a CDN beside it.
type Server struct {
	// URL is the endpoint.
	URL string
	// Token opens private repositories.
	Token string

	hub, cdn *httptest.Server

	mu       sync.Mutex
	repos    map[string]Repo
	renamed  map[string]string
	faults   map[string]*Fault
	requests []Request
}

// New starts a server. The caller closes it.
func New() *Server {
	s := &Server{repos: map[string]Repo{}, renamed: map[string]string{}, faults: map[string]*Fault{}}
	s.hub = httptest.NewServer(s.recorded("hub", s.serveHub))
	s.cdn = httptest.NewServer(s.recorded("cdn", s.serveCDN))
	s.URL = s.hub.URL
	return s
}

// Close stops the server and cuts its connections.
func (s *Server) Close() {
	for _, srv := range []*httptest.Server{s.hub, s.cdn} {
		srv.CloseClientConnections()
		srv.Close()
	}
}

// Put adds or replaces a repository.
func (s *Server) Put(name string, r Repo) {
	if r.Branch == "" {
		r.Branch = "main"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[name] = r
}

// Rename makes requests for the old name be redirected to the new one.
func (s *Server) Rename(old, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renamed[old] = name
}

// Break sets the fault of a file, over all repositories; nil heals it.
func (s *Server) Break(file string, f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.faults, file)
	if f != nil {
		c := *f
		s.faults[file] = &c
	}
}

// Requests returns what was asked since the last call of Requests.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests
	s.requests = nil
	return r
}

func (s *Server) recorded(host string, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, Request{
			Host: host, Method: r.Method, Path: r.URL.Path,
			Range: r.Header.Get("Range"), Authorization: r.Header.Get("Authorization"),
		})
		s.mu.Unlock()
		h(w, r)
	})
}

// fault returns the file's fault, and counts it when this answer is to show it.
func (s *Server) fault(file string, count bool) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.faults[file]
	if f == nil {
		return Fault{}
	}
	c := *f
	if count && f.Times > 0 {
		if f.Times--; f.Times == 0 {
			delete(s.faults, file)
		}
	}
	return c
}

func (s *Server) serveHub(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	name, rest := splitRepo(strings.TrimPrefix(path, "api/models/"))
	s.mu.Lock()
	repo, ok := s.repos[name]
	renamed := s.renamed[name]
	s.mu.Unlock()
	if renamed != "" {
		w.Header().Set("Location", strings.Replace(r.URL.EscapedPath(), name, renamed, 1))
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	allowed := s.Token != "" && r.Header.Get("Authorization") == "Bearer "+s.Token
	switch {
	case !ok && allowed:
		refuse(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
	case !ok, repo.Private && !allowed:
		refuse(w, http.StatusUnauthorized, "RepoNotFound", "Repository not found")
	case repo.Gated:
		refuse(w, http.StatusForbidden, "GatedRepo", "Access to model "+name+" is restricted")
	case strings.HasPrefix(path, "api/models/"):
		s.serveListing(w, name, repo, strings.TrimPrefix(rest, "revision/"))
	default:
		revision, file, _ := strings.Cut(strings.TrimPrefix(rest, "resolve/"), "/")
		s.serveResolve(w, r, name, repo, revision, file)
	}
}

// splitRepo cuts ORG/NAME off a path.
func splitRepo(path string) (repo, rest string) {
	parts := strings.SplitN(path, "/", 3)
	if len(parts) < 3 {
		return path, ""
	}
	return parts[0] + "/" + parts[1], parts[2]
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Error-Code", code)
	w.Header().Set("X-Error-Message", message)
	http.Error(w, message, status)
}

func (s *Server) serveListing(w http.ResponseWriter, name string, repo Repo, revision string) {
	if f := s.fault("", true); f.Status != 0 {
		http.Error(w, "listing fault", f.Status)
		return
	}
	if revision != repo.Branch && revision != repo.Commit() {
		refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
		return
	}
	type sibling struct {
		Name string `json:"rfilename"`
	}
	var siblings []sibling
	for _, f := range append(slices.Sorted(maps.Keys(repo.Files)), repo.Listed...) {
		siblings = append(siblings, sibling{f})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"id": name, "sha": repo.Commit(), "siblings": siblings})
}

func (s *Server) serveResolve(w http.ResponseWriter, r *http.Request, name string, repo Repo, revision, file string) {
	body, ok := repo.Files[file]
	if !ok || (revision != repo.Branch && revision != repo.Commit()) {
		refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	f := s.fault(file, r.Method == http.MethodGet && !lfs(file))
	w.Header().Set("X-Repo-Commit", repo.Commit())
	etag := fmt.Sprintf(`"%x"`, sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(body), body)))
	if lfs(file) {
		size := int64(len(body))
		if f.LinkedSize != 0 {
			size = f.LinkedSize
		}
		if !f.NoETag {
			w.Header().Set("X-Linked-Etag", fmt.Sprintf(`"%x"`, sha256.Sum256(body)))
		}
		w.Header().Set("X-Linked-Size", strconv.FormatInt(size, 10))
		to := url.URL{Path: "/" + name + "/" + file}
		w.Header().Set("Location", s.cdn.URL+to.EscapedPath())
		w.WriteHeader(http.StatusFound)
		return
	}
	if !f.NoETag {
		w.Header().Set("ETag", etag)
	}
	s.serveBody(w, r, body, f)
}

func lfs(file string) bool {
	return strings.HasSuffix(file, ".safetensors") || strings.HasSuffix(file, ".gguf") || strings.HasSuffix(file, ".bin")
}

func (s *Server) serveCDN(w http.ResponseWriter, r *http.Request) {
	name, file := splitRepo(strings.TrimPrefix(r.URL.Path, "/"))
	s.mu.Lock()
	body, ok := s.repos[name].Files[file]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", `"cdn-`+strconv.Itoa(len(body))+`"`)
	s.serveBody(w, r, body, s.fault(file, r.Method == http.MethodGet))
}

func (s *Server) serveBody(w http.ResponseWriter, r *http.Request, body []byte, f Fault) {
	if f.Status != 0 {
		http.Error(w, "fault", f.Status)
		return
	}
	body, status := append(slices.Clone(body), make([]byte, f.Extra)...), http.StatusOK
	if at, ok := rangeStart(r); ok && !f.IgnoreRange {
		if at >= len(body) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", len(body)))
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(body)-1, len(body)))
		body, status = body[at:], http.StatusPartialContent
	}
	if f.Corrupt && len(body) > 0 {
		body[0] ^= 1
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	send(w, r, body, f)
}

// send writes the body, or the part of it that the fault lets through.
func send(w http.ResponseWriter, r *http.Request, body []byte, f Fault) {
	if cut := max(f.CutAfter, f.StallAfter); cut > 0 && cut < len(body) {
		_, _ = w.Write(body[:cut])
		_ = http.NewResponseController(w).Flush()
		if f.StallAfter > 0 {
			select {
			case <-r.Context().Done():
			case <-time.After(time.Minute):
			}
		}
		panic(http.ErrAbortHandler) // cuts the connection before Content-Length is reached
	}
	_, _ = w.Write(body)
}

func rangeStart(r *http.Request) (int, bool) {
	s, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	if !ok {
		return 0, false
	}
	at, err := strconv.Atoi(strings.TrimSuffix(s, "-"))
	return at, err == nil
}
