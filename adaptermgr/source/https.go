package source

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"chorale/adaptermgr/source/guard"
	"chorale/adaptermgr/source/spool"
)

const maxRedirects = 10

// archiveEnds are the endings of URLs and keys that name an archive; others
// name a folder.
var archiveEnds = []string{".tar", ".tar.gz", ".tgz", ".zip"}

func isArchive(name string) bool {
	for _, e := range archiveEnds {
		if strings.HasSuffix(strings.ToLower(name), e) {
			return true
		}
	}
	return false
}

// fromHTTP fetches an archive, or a folder whose files lie below its URL.
func (r *Resolver) fromHTTP(ctx context.Context, source string) (*Artifact, error) {
	u, want, err := r.parseHTTP(source)
	if err != nil {
		return nil, fail(source, "", err)
	}
	o := &httpOrigin{client: r.httpClient(source), url: func(string) string { return u.String() }}
	if isArchive(u.Path) {
		return r.archived(ctx, source, u.String(), o, want)
	}
	if want != "" {
		return nil, fail(source, "", fmt.Errorf("%w: #sha256= is for archives; a folder has several files", ErrUnsupported))
	}
	folder := *u
	if base := path.Base(u.Path); base == ConfigFile || base == WeightsFile {
		folder.Path = path.Dir(u.Path)
	}
	folder.RawPath = ""
	o.url = func(file string) string {
		one := folder
		one.Path = strings.TrimSuffix(folder.Path, "/") + "/" + file
		return one.String()
	}
	return r.folder(ctx, source, folder.String(), o)
}

// parseHTTP checks a URL and takes a #sha256= off.
func (r *Resolver) parseHTTP(source string) (u *url.URL, want string, err error) {
	u, err = url.Parse(source)
	switch {
	case err != nil || u.Host == "":
		return nil, "", fmt.Errorf("%w: it is not a URL", ErrNotFound)
	case u.Scheme == "http" && !r.trusts(source):
		return nil, "", fmt.Errorf("%w: only https is allowed, without --allow-private-sources", ErrDenied)
	case u.User != nil:
		return nil, "", fmt.Errorf("%w: a URL with a password would be shown to everybody", ErrUnsupported)
	}
	if u.Fragment != "" {
		if want, err = fragmentDigest(u.Fragment); err != nil {
			return nil, "", err
		}
	}
	u.Fragment, u.RawFragment = "", ""
	return u, want, nil
}

// fragmentDigest reads sha256=HEX.
func fragmentDigest(f string) (string, error) {
	name, value, _ := strings.Cut(f, "=")
	value = strings.ToLower(value)
	if b, err := hex.DecodeString(value); name != "sha256" || err != nil || len(b) != 32 {
		return "", fmt.Errorf("%w: the part after # must be sha256= and 64 hexadecimal digits", ErrUnsupported)
	}
	return value, nil
}

// httpOrigin is a web server.
type httpOrigin struct {
	client *http.Client
	url    func(file string) string
}

// open implements origin.
func (o *httpOrigin) open(ctx context.Context, q request) (*reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url(q.file), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not a URL", ErrNotFound)
	}
	req.Header.Set("User-Agent", "chorale")
	req.Header.Set("Accept-Encoding", "identity") // lengths and checksums are the plain file's
	condition(req.Header, q)
	resp, err := o.client.Do(req)
	if err != nil {
		return nil, connectError(err)
	}
	rep, err := answer(resp, q)
	if err != nil || rep.current {
		resp.Body.Close()
	}
	return rep, err
}

// condition asks for what is missing only, or for what has changed only.
func condition(h http.Header, q request) {
	switch {
	case q.check && q.have.ETag != "":
		h.Set("If-None-Match", q.have.ETag)
	case q.check && q.have.Modified != "":
		h.Set("If-Modified-Since", q.have.Modified)
	case q.from > 0 && q.have.Validates():
		h.Set("Range", "bytes="+strconv.FormatInt(q.from, 10)+"-")
		if q.have.ETag != "" {
			h.Set("If-Range", q.have.ETag)
		} else {
			h.Set("If-Range", q.have.Modified)
		}
	}
}

// answer reads status and headers.
func answer(resp *http.Response, q request) (*reply, error) {
	rep := &reply{body: resp.Body, stamp: stampOf(resp)}
	switch code := resp.StatusCode; {
	case code == http.StatusNotModified && q.check:
		rep.current = true
	case code == http.StatusOK:
		rep.current = q.check && rep.stamp.Same(q.have)
	case code == http.StatusPartialContent:
		var err error
		if rep.from, rep.stamp.Size, err = contentRange(resp.Header.Get("Content-Range")); err != nil {
			return nil, err
		}
	case code == http.StatusRequestedRangeNotSatisfiable && q.from > 0:
		return nil, errRange
	case code == http.StatusNotFound, code == http.StatusGone:
		return nil, fmt.Errorf("%w (HTTP %d)", ErrNotFound, code)
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusProxyAuthRequired:
		return nil, fmt.Errorf("%w (HTTP %d)", ErrDenied, code)
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		return nil, temporary{fmt.Errorf("%w (HTTP %d)", ErrUnavailable, code)}
	default:
		return nil, fmt.Errorf("%w (HTTP %d)", ErrUnavailable, code)
	}
	return rep, nil
}

// stampOf reads what the headers say of the whole file.
func stampOf(resp *http.Response) spool.Stamp {
	s := spool.Stamp{ETag: resp.Header.Get("ETag"), Modified: resp.Header.Get("Last-Modified"), Size: resp.ContentLength}
	if strings.HasPrefix(s.ETag, "W/") { // says nothing of bytes
		s.ETag = ""
	}
	for _, h := range []string{"Repr-Digest", "Digest"} {
		for part := range strings.SplitSeq(resp.Header.Get(h), ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			b, err := base64.StdEncoding.DecodeString(strings.Trim(value, ":"))
			if strings.EqualFold(name, "sha-256") && err == nil && len(b) == 32 {
				s.SHA256 = hex.EncodeToString(b)
			}
		}
	}
	return s
}

// contentRange reads "bytes FROM-TO/TOTAL"; the total is negative for "*".
func contentRange(h string) (from, total int64, err error) {
	rest, ok := strings.CutPrefix(h, "bytes ")
	span, all, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(span, "-")
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	total = -1
	if all != "*" {
		total, err = strconv.ParseInt(all, 10, 64)
		ok = ok && to == total-1
	}
	if !ok || !ok2 || !ok3 || err != nil || err1 != nil || err2 != nil || from < 0 || from > to {
		return 0, 0, fmt.Errorf("%w: Content-Range %q", ErrLength, h)
	}
	return from, total, nil
}

// errDowngrade ends a redirect to a plain connection.
var errDowngrade = fmt.Errorf("%w: a redirect leads to another scheme than https", ErrDenied)

// httpClient returns the client for a source; redirects obey the same rules.
func (r *Resolver) httpClient(source string) *http.Client {
	trusted := r.trusts(source)
	return &http.Client{
		Transport: r.transport(trusted),
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case len(via) >= maxRedirects:
				return fmt.Errorf("%w: more than %d redirects", ErrUnavailable, maxRedirects)
			case req.URL.Scheme != "https" && (req.URL.Scheme != "http" || !trusted || via[0].URL.Scheme == "https"):
				return errDowngrade
			}
			return nil
		},
	}
}

// connectError keeps of a failed request what is for clients' eyes: the URL
// may carry a signature.
func connectError(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case errors.Is(err, ErrDenied), errors.Is(err, ErrUnavailable):
		return err
	case errors.Is(err, guard.ErrPrivate):
		return ErrPrivate // not the address: names inside are none of a client's business
	case isDNS && dns.IsNotFound:
		return fmt.Errorf("%w: no such host %q", ErrUnavailable, dns.Name)
	}
	return temporary{fmt.Errorf("%w: %w", ErrUnavailable, err)}
}
