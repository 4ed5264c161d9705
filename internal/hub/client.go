package hub

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DefaultEndpoint is the public hub.
const DefaultEndpoint = "https://huggingface.co"

// Options configure a Client. The zero value of a field means its default.
type Options struct {
	// CacheDir holds the models--ORG--NAME folders. Required.
	CacheDir string
	// Endpoint is the hub's base URL, default DefaultEndpoint.
	Endpoint string
	// Token is sent to the endpoint's host only.
	Token string
	// Offline answers from the cache alone.
	Offline bool
	// Transport carries the requests, default one with connect timeouts that
	// heeds the proxy variables of the environment.
	Transport http.RoundTripper
	// UserAgent, default "chorale".
	UserAgent string
	// MaxFileBytes and MaxTotalBytes bound a file and a snapshot, default 256 GiB
	// and 2 TiB.
	MaxFileBytes, MaxTotalBytes int64
	// Parallel downloads, default 4.
	Parallel int
	// StallTimeout ends a request that brings no byte for so long, default 30 s.
	StallTimeout time.Duration
	// Retries after failures in a row that brought no byte, default 4; negative: none.
	Retries int
	// RetryWait before the first retry, doubled for each next up to 10 s, default 500 ms.
	RetryWait time.Duration
}

// Client speaks to one hub. It is safe for concurrent use.
type Client struct {
	o        Options
	endpoint *url.URL
	http     *http.Client
}

// New returns a Client. It fails on a missing cache folder or an endpoint that
// is not an http or https URL; it touches neither disk nor network.
func New(o Options) (*Client, error) {
	if o.CacheDir == "" {
		return nil, fmt.Errorf("hub: no cache folder given")
	}
	setDefaults(&o)
	u, err := url.Parse(strings.TrimRight(o.Endpoint, "/"))
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("hub: endpoint %q is not an http or https URL", o.Endpoint)
	}
	return &Client{
		o: o, endpoint: u,
		http: &http.Client{
			Transport: o.Transport,
			// Redirects are followed by hand: the token must not travel along.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func setDefaults(o *Options) {
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	if o.Transport == nil {
		o.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout: 15 * time.Second,
			MaxIdleConnsPerHost: 8,
			IdleConnTimeout:     30 * time.Second,
			ForceAttemptHTTP2:   true,
		}
	}
	if o.UserAgent == "" {
		o.UserAgent = "chorale"
	}
	setDefault(&o.MaxFileBytes, 256<<30)
	setDefault(&o.MaxTotalBytes, 2<<40)
	setDefault(&o.Parallel, 4)
	setDefault(&o.StallTimeout, 30*time.Second)
	setDefault(&o.Retries, 4)
	setDefault(&o.RetryWait, 500*time.Millisecond)
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// CloseIdleConnections gives back connections that no request uses.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// FromEnv returns a Client set up by the variables that huggingface_hub reads:
// HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE.
func FromEnv() (*Client, error) {
	o, err := OptionsFromEnv(os.LookupEnv)
	if err != nil {
		return nil, err
	}
	return New(o)
}

// OptionsFromEnv returns the options that the environment asks for, read
// through lookup (os.LookupEnv). It reads the token file if there is one.
func OptionsFromEnv(lookup func(string) (string, bool)) (Options, error) {
	get := func(names ...string) string {
		for _, n := range names {
			if v, ok := lookup(n); ok && strings.TrimSpace(v) != "" {
				return strings.TrimSpace(v)
			}
		}
		return ""
	}
	home, err := homeDir(get)
	if err != nil {
		return Options{}, err
	}
	o := Options{
		CacheDir: get("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"),
		Endpoint: get("HF_ENDPOINT"),
		Token:    get("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
		Offline:  truthy(get("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")),
	}
	if o.CacheDir == "" {
		o.CacheDir = filepath.Join(home, "hub")
	}
	if o.CacheDir, err = expandHome(o.CacheDir, get); err != nil {
		return Options{}, err
	}
	if o.Token == "" {
		path := get("HF_TOKEN_PATH")
		if path == "" {
			path = filepath.Join(home, "token")
		}
		if o.Token, err = readToken(path, get); err != nil {
			return Options{}, err
		}
	}
	return o, nil
}

func homeDir(get func(...string) string) (string, error) {
	if h := get("HF_HOME"); h != "" {
		return expandHome(h, get)
	}
	if x := get("XDG_CACHE_HOME"); x != "" {
		return filepath.Join(x, "huggingface"), nil
	}
	return expandHome("~/.cache/huggingface", get)
}

func expandHome(path string, get func(...string) string) (string, error) {
	rest, ok := strings.CutPrefix(path, "~")
	if !ok || (rest != "" && rest[0] != '/') {
		return path, nil
	}
	home := get("HOME", "USERPROFILE")
	if home == "" {
		return "", fmt.Errorf("hub: cannot expand %q: HOME is not set; set HF_HOME", path)
	}
	return filepath.Join(home, rest), nil
}

func readToken(path string, get func(...string) string) (string, error) {
	path, err := expandHome(path, get)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	switch {
	case os.IsNotExist(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("hub: token file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func truthy(s string) bool {
	return slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(s))
}
