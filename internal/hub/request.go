package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	maxListing   = 32 << 20
	maxRedirects = 10
	maxRetryWait = 10 * time.Second
)

// Info is what a repository holds at a revision.
type Info struct {
	// Commit is the revision's full commit hash.
	Commit string
	// Files are the paths of all files, checked to stay below their root.
	Files []string
}

// Info asks the hub for a repository's listing.
func (c *Client) Info(ctx context.Context, repo, revision string) (Info, error) {
	info, err := c.info(ctx, repo, revision)
	return info, wrap(repo, revision, "", err)
}

func (c *Client) info(ctx context.Context, repo, revision string) (Info, error) {
	if err := errors.Join(checkRepo(repo), checkRevision(revision)); err != nil {
		return Info{}, err
	}
	if c.o.Offline {
		return Info{}, ErrOffline
	}
	u := c.endpoint.String() + "/api/models/" + repo + "/revision/" + url.PathEscape(revision)
	var body []byte
	err := c.retry(ctx, func() (bool, error) {
		resp, done, err := c.do(ctx, http.MethodGet, u, nil, followAll)
		if err != nil {
			return false, err
		}
		defer done()
		if resp.StatusCode != http.StatusOK {
			return false, statusError(resp)
		}
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxListing+1))
		return false, readError(ctx, resp.Request.Context(), err)
	})
	if err != nil {
		return Info{}, err
	}
	if len(body) > maxListing {
		return Info{}, fmt.Errorf("%w: listing of more than %d bytes", ErrTooLarge, maxListing)
	}
	return parseListing(body)
}

func parseListing(body []byte) (Info, error) {
	var answer struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
		} `json:"siblings"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Info{}, fmt.Errorf("%w: listing: %w", ErrProtocol, err)
	}
	if !commitName.MatchString(answer.SHA) {
		return Info{}, fmt.Errorf("%w: listing: commit %q", ErrProtocol, answer.SHA)
	}
	info := Info{Commit: answer.SHA, Files: make([]string, 0, len(answer.Siblings))}
	for _, s := range answer.Siblings {
		if err := checkPath(s.Name); err != nil {
			return Info{}, fmt.Errorf("listing: %w", err)
		}
		info.Files = append(info.Files, s.Name)
	}
	return info, nil
}

// meta is what the hub announces about a file.
type meta struct {
	etag string
	size int64
}

// head asks for a file's etag and size. The hub answers for an LFS file with a
// redirect to its store; the headers wanted are on the redirect itself.
func (c *Client) head(ctx context.Context, fileURL string) (meta, error) {
	var m meta
	err := c.retry(ctx, func() (bool, error) {
		resp, done, err := c.do(ctx, http.MethodHead, fileURL, nil, followWithoutETag)
		if err != nil {
			return false, err
		}
		defer done()
		if resp.StatusCode >= 400 {
			return false, statusError(resp)
		}
		m, err = parseMeta(resp)
		return false, err
	})
	return m, err
}

func parseMeta(resp *http.Response) (meta, error) {
	etag := cleanETag(resp.Header.Get("X-Linked-Etag"))
	if etag == "" {
		etag = cleanETag(resp.Header.Get("ETag"))
	}
	if !etagName.MatchString(etag) {
		return meta{}, fmt.Errorf("%w: etag %q (is the endpoint a hub?)", ErrProtocol, etag)
	}
	length := resp.Header.Get("X-Linked-Size")
	if length == "" && resp.StatusCode < 300 {
		length = resp.Header.Get("Content-Length")
	}
	size, err := strconv.ParseInt(length, 10, 64)
	if err != nil || size < 0 {
		return meta{}, fmt.Errorf("%w: file size %q", ErrProtocol, length)
	}
	return meta{etag: etag, size: size}, nil
}

func cleanETag(s string) string {
	return strings.Trim(strings.TrimPrefix(s, "W/"), `"`)
}

// follow says whether a redirect is to be followed.
type follow func(c *Client, resp *http.Response, to *url.URL) bool

func followAll(*Client, *http.Response, *url.URL) bool { return true }

// followWithoutETag follows a renamed repository, not the way to the store.
func followWithoutETag(c *Client, resp *http.Response, to *url.URL) bool {
	return resp.Header.Get("X-Linked-Etag") == "" && sameOrigin(c.endpoint, to)
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

// do sends a request under the stall timeout and follows redirects by hand.
// The caller calls done after reading the body, and only when err is nil.
func (c *Client) do(ctx context.Context, method, rawURL string, h http.Header, f follow) (
	resp *http.Response, done func(), err error,
) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: URL %q", ErrProtocol, rawURL)
	}
	inner, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(c.o.StallTimeout, func() { cancel(ErrStalled) })
	end := func() { watch.Stop(); cancel(nil) }
	for range maxRedirects {
		watch.Reset(c.o.StallTimeout)
		resp, err = c.send(inner, method, u, h)
		if err != nil {
			err = readError(ctx, inner, err)
			end()
			return nil, nil, err
		}
		next, ok := redirect(resp)
		if !ok || !f(c, resp, next) {
			resp.Body = &watched{body: resp.Body, watch: watch, limit: c.o.StallTimeout}
			return resp, func() { resp.Body.Close(); end() }, nil
		}
		resp.Body.Close()
		if u.Scheme == "https" && next.Scheme != "https" {
			end()
			return nil, nil, fmt.Errorf("%w: redirect from https to %s", ErrProtocol, next.Scheme)
		}
		u = next
	}
	end()
	return nil, nil, fmt.Errorf("%w: more than %d redirects", ErrProtocol, maxRedirects)
}

func (c *Client) send(ctx context.Context, method string, u *url.URL, h http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	for k, v := range h {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
	// The size and the hash are those of the plain file.
	req.Header.Set("Accept-Encoding", "identity")
	if c.o.Token != "" && sameOrigin(c.endpoint, u) {
		req.Header.Set("Authorization", "Bearer "+c.o.Token)
	}
	return c.http.Do(req)
}

func redirect(resp *http.Response) (*url.URL, bool) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, false
	}
	to, err := resp.Location()
	if err != nil || (to.Scheme != "http" && to.Scheme != "https") {
		return nil, false
	}
	return to, true
}

// watched gives its reader a fresh stall timeout with each byte that arrives.
type watched struct {
	body  io.ReadCloser
	watch *time.Timer
	limit time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	if n > 0 {
		w.watch.Reset(w.limit)
	}
	return n, err
}

func (w *watched) Close() error { return w.body.Close() }

// readError turns a transport's error into the caller's cancellation or
// ErrNetwork.
func readError(ctx, inner context.Context, err error) error {
	switch {
	case err == nil || errors.Is(err, ErrProtocol):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(context.Cause(inner), ErrStalled):
		return ErrStalled
	}
	return fmt.Errorf("%w: %w", ErrNetwork, err)
}

// statusError maps an HTTP status. X-Error-Code is the hub's own reason.
func statusError(resp *http.Response) error {
	code, detail := resp.Header.Get("X-Error-Code"), resp.Header.Get("X-Error-Message")
	if detail == "" {
		detail = "HTTP " + resp.Status
	}
	switch status := resp.StatusCode; {
	case code == "GatedRepo":
		return fmt.Errorf("%w: %s; accept its terms on the hub and set HF_TOKEN", ErrGated, detail)
	case code == "RepoNotFound" && status == http.StatusUnauthorized:
		return fmt.Errorf("%w: %s; a private repository needs HF_TOKEN", ErrNotFound, detail)
	case status == http.StatusNotFound || status == http.StatusGone || code == "RepoNotFound" ||
		code == "RevisionNotFound" || code == "EntryNotFound":
		return fmt.Errorf("%w: %s", ErrNotFound, detail)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fmt.Errorf("%w: %s; set HF_TOKEN", ErrUnauthorized, detail)
	case status == http.StatusTooManyRequests || status >= 500:
		return fmt.Errorf("%w: %s", ErrNetwork, detail)
	}
	return fmt.Errorf("%w: %s", ErrProtocol, detail)
}

// retry calls op until it succeeds, fails for good or has failed Retries times
// in a row without progress.
func (c *Client) retry(ctx context.Context, op func() (progress bool, err error)) error {
	wait := c.o.RetryWait
	for failed := 0; ; {
		progress, err := op()
		if err == nil || !errors.Is(err, ErrNetwork) {
			return err
		}
		if failed++; progress {
			failed, wait = 0, c.o.RetryWait
		}
		if failed > c.o.Retries {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRetryWait)
	}
}
