package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Options configure a Client.
type Options struct {
	// Server is the base URL, e.g. http://127.0.0.1:30000; without a scheme http
	// is meant.
	Server string
	// APIKey goes with every request as a bearer token.
	APIKey string
	// AdminKey goes with the administrator's instead; empty means APIKey.
	AdminKey string
	// ConnectTimeout bounds the dial, default 5 s. What follows is bounded by the
	// caller's context alone: a long answer is no fault.
	ConnectTimeout time.Duration
	// CA are the authorities of an https server, in PEM; nil: the system's.
	CA []byte
	// OneShot takes a new connection for each request. A request on a kept
	// connection fails if the server gives that up at the same moment (llama.cpp's
	// does after 5 s), and none is ever sent twice.
	OneShot bool
}

// Client speaks to one server. It is safe for concurrent use.
type Client struct {
	base *url.URL
	o    Options
	http *http.Client
}

// maxAnswer bounds a whole answer, and maxLine one line of a stream. Cumulative
// streams repeat the text so far in each event.
const (
	maxAnswer = 64 << 20
	maxLine   = 16 << 20
)

// New returns a Client; it does not connect. The error wraps ErrServer.
func New(o Options) (*Client, error) {
	raw := o.Server
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%w: %q (want something like http://127.0.0.1:30000)", ErrServer, o.Server)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 5 * time.Second
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: o.ConnectTimeout}).DialContext
	t.MaxIdleConnsPerHost = 16
	t.DisableKeepAlives = o.OneShot
	if o.CA != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(o.CA) {
			return nil, fmt.Errorf("%w: no certificate among the authorities", ErrServer)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	// Compressed streams would come in lumps.
	t.DisableCompression = true
	return &Client{base: u, o: o, http: &http.Client{Transport: t}}, nil
}

// URL is the server's base URL.
func (c *Client) URL() string { return c.base.String() }

// CloseIdleConnections gives back connections that no request uses.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// call is one request.
type call struct {
	method, path string
	query        url.Values
	body         []byte // nil for none
	form         *form  // instead of body
	admin        bool
	accept       string
}

func (c *Client) do(ctx context.Context, in call) (*http.Response, error) {
	u := *c.base
	// in.path is escaped already: an adapter's name may hold slashes and more.
	full := u.EscapedPath() + in.path
	plain, err := url.PathUnescape(full)
	if err != nil {
		return nil, fmt.Errorf("client: path %q: %w", in.path, err)
	}
	u.Path, u.RawPath, u.RawQuery = plain, full, in.query.Encode()
	var body io.Reader
	if in.body != nil {
		body = bytes.NewReader(in.body)
	} else if in.form != nil {
		body = in.form.body
	}
	req, err := http.NewRequestWithContext(ctx, in.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if in.body != nil {
		req.Header.Set("Content-Type", "application/json")
	} else if in.form != nil {
		req.Header.Set("Content-Type", in.form.contentType)
		req.ContentLength = in.form.length
	}
	if in.accept != "" {
		req.Header.Set("Accept", in.accept)
	}
	key := c.o.APIKey
	if in.admin && c.o.AdminKey != "" {
		key = c.o.AdminKey
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s %s: %w", in.method, in.path, ctx.Err())
		}
		return nil, c.reach(err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // whatever there is of the reason
		return nil, &StatusError{Method: in.method, Path: in.path, Status: resp.StatusCode, Message: message(b)}
	}
	return resp, nil
}

// bytes makes a call and reads the whole answer.
func (c *Client) bytes(ctx context.Context, in call) ([]byte, error) {
	resp, err := c.do(ctx, in)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: reading the answer: %w", in.method, in.path, err)
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("%s %s: %w: longer than %d bytes", in.method, in.path, ErrAnswer, maxAnswer)
	}
	return b, nil
}

// JSON makes a call and decodes its answer into out, which may be nil. in is
// encoded as the body; nil sends none.
func (c *Client) JSON(ctx context.Context, method, path string, in, out any) error {
	req := call{method: method, path: path}
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("client: %s %s: %w", method, path, err)
		}
		req.body = b
	}
	b, err := c.bytes(ctx, req)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s %s: %w: %v", method, path, ErrAnswer, err)
	}
	return nil
}

// Events posts a body and calls f with the data of each server-sent event, in
// order, until the stream ends or f fails. The end marker "[DONE]" is not
// passed on. An event {"error":…} is a *StatusError. data is f's only during
// the call.
func (c *Client) Events(ctx context.Context, path string, body any, f func(data []byte) error) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("client: POST %s: %w", path, err)
	}
	in := call{method: http.MethodPost, path: path, body: b, accept: "text/event-stream"}
	var data []byte
	flush := func() error {
		defer func() { data = data[:0] }()
		if len(data) == 0 || string(data) == "[DONE]" {
			return nil
		}
		if e := streamError(in.method, path, data); e != nil {
			return e
		}
		return f(data)
	}
	err = c.lines(ctx, in, func(line []byte) error {
		if len(line) == 0 {
			return flush()
		}
		if rest, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			if len(data) > 0 {
				data = append(data, '\n')
			}
			data = append(data, bytes.TrimPrefix(rest, []byte(" "))...)
		}
		return nil // comments, event names and ids say nothing here
	})
	if err != nil {
		return err
	}
	return flush() // a last event without its blank line
}

// lines calls f with each line of an answer as it arrives.
func (c *Client) lines(ctx context.Context, in call, f func(line []byte) error) error {
	resp, err := c.do(ctx, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	for sc.Scan() {
		if err := f(bytes.TrimSuffix(sc.Bytes(), []byte("\r"))); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("%s %s: the answer broke off: %w", in.method, in.path, err)
	}
	return nil
}
