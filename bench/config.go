package bench

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// TargetSpec is one server to measure.
type TargetSpec struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	// API is one of APIs.
	API string `json:"api"`
	// PID of the server's process on this machine, to report its CPU seconds; 0
	// for none.
	PID int `json:"pid,omitempty"`
	// Adapters of this target, in the order that modes count them; empty means
	// Config.Adapters, and if those are empty too, all that the server lists.
	Adapters []string `json:"adapters,omitempty"`
	// Key goes with requests as a bearer token.
	Key string `json:"-"`
}

// ParseTarget reads "NAME=URL[,api=A][,pid=N][,adapters=a:b:c]". Without NAME=
// the URL's host is the name. Settings that are not given come from defaults.
func ParseTarget(s string, defaults TargetSpec) (TargetSpec, error) {
	t := defaults
	t.Adapters = slices.Clone(defaults.Adapters)
	parts := strings.Split(s, ",")
	name, rest, named := strings.Cut(parts[0], "=")
	if named && !strings.ContainsAny(name, ":/") {
		t.Name, t.URL = name, rest
	} else {
		t.URL = parts[0]
		t.Name = hostOf(t.URL)
	}
	for _, p := range parts[1:] {
		key, value, _ := strings.Cut(p, "=")
		var err error
		switch key {
		case "api":
			t.API = value
		case "pid":
			t.PID, err = strconv.Atoi(value)
		case "adapters":
			t.Adapters = strings.Split(value, ":")
		default:
			err = fmt.Errorf("unknown setting (known: api, pid, adapters)")
		}
		if err != nil {
			return t, fmt.Errorf("%w: target %q: %s: %v", ErrConfig, s, key, err)
		}
	}
	return t, t.check()
}

func hostOf(s string) string {
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		return u.Host
	}
	return s
}

func (t *TargetSpec) check() error {
	if t.Name == "" || t.URL == "" {
		return fmt.Errorf("%w: a target needs a name and a URL", ErrConfig)
	}
	if !slices.Contains(APIs, t.API) {
		return fmt.Errorf("%w: target %s: api %q is none of %s", ErrConfig, t.Name, t.API, strings.Join(APIs, ", "))
	}
	return nil
}

// Config is everything that a measurement depends on.
type Config struct {
	// Targets are measured alternately; ratios are to the first.
	Targets []TargetSpec `json:"targets"`
	Modes   []Mode       `json:"modes"`
	// Clients and Requests are the closed loop: so many clients, each with so
	// many requests in a row.
	Clients  int `json:"clients,omitempty"`
	Requests int `json:"requests,omitempty"`
	// Rate > 0 is the open loop: requests per second, with gaps of variation CV,
	// until Total requests or Duration, whichever is first (0: no such limit).
	Rate     float64       `json:"rate,omitempty"`
	CV       float64       `json:"cv,omitempty"`
	Total    int           `json:"total,omitempty"`
	Duration time.Duration `json:"duration_ns,omitempty"`
	// MaxInFlight holds open-loop requests back beyond so many; 0: none is held.
	MaxInFlight int `json:"max_in_flight,omitempty"`
	// Repeat measured rounds follow Warmup unmeasured bursts of each cell.
	Repeat int `json:"repeat"`
	Warmup int `json:"warmup"`
	// Adapters and the power law's exponent, see ModePower.
	Adapters []string `json:"adapters,omitempty"`
	Alpha    float64  `json:"alpha"`
	// Prompt and Output lengths in tokens, unless Pairs gives both.
	Prompt Lengths `json:"prompt"`
	Output Lengths `json:"output"`
	Pairs  []Pair  `json:"pairs,omitempty"`
	// Texts are prompts to send instead of random token ids, in turn.
	Texts []string `json:"texts,omitempty"`
	// Vocab bounds random token ids; 0 asks the servers, and takes 32000 when
	// none tells.
	Vocab       int     `json:"vocab"`
	Temperature float64 `json:"temperature"`
	// StopAtEOS lets answers end early; else ignore_eos makes all of one length.
	StopAtEOS bool   `json:"stop_at_eos,omitempty"`
	Seed      uint64 `json:"seed"`
	// MaxDuration ends the whole measurement; 0: no limit.
	MaxDuration time.Duration `json:"max_duration_ns,omitempty"`
	SLO         SLO           `json:"slo"`
	// Raw keeps every sample in the result.
	Raw bool `json:"raw,omitempty"`
	// Progress, if set, is told what runs.
	Progress func(string) `json:"-"`
}

func (c *Config) open() bool { return c.Rate > 0 }

func (c *Config) say(format string, args ...any) {
	if c.Progress != nil {
		c.Progress(fmt.Sprintf(format, args...))
	}
}

// check says everything that is wrong at once.
func (c *Config) check() error {
	var bad []string
	need := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	need(len(c.Targets) > 0, "no target")
	names := map[string]bool{}
	for i := range c.Targets {
		t := &c.Targets[i]
		if err := t.check(); err != nil {
			bad = append(bad, strings.TrimPrefix(err.Error(), ErrConfig.Error()+": "))
		}
		need(!names[t.Name], "target %s is given twice", t.Name)
		names[t.Name] = true
	}
	need(len(c.Modes) > 0, "no mode")
	for i, m := range c.Modes {
		need(slices.Contains([]Mode{ModeNone, ModeSame, ModeEach, ModePower}, m), "mode %q is none of none, same, each, power", m)
		need(!slices.Contains(c.Modes[:i], m), "mode %s is given twice", m)
	}
	need(c.Repeat >= 1 && c.Repeat <= 10000, "repeat %d is not in [1, 10000]", c.Repeat)
	need(c.Warmup >= 0 && c.Warmup <= 1000, "warmup %d is not in [0, 1000]", c.Warmup)
	need(c.Alpha > 0, "alpha %g is not above 0", c.Alpha)
	need(c.Vocab == 0 || c.Vocab >= 8, "vocab %d is below 8", c.Vocab)
	need(c.Temperature >= 0, "temperature %g is below 0", c.Temperature)
	need(c.SLO.TTFT >= 0 && c.SLO.TPOT >= 0, "an SLO is below 0")
	need(c.MaxInFlight >= 0, "max in flight %d is below 0", c.MaxInFlight)
	if len(c.Pairs) == 0 {
		need(c.Prompt.Lo >= 1, "prompt length %v", c.Prompt)
		need(c.Output.Lo >= 1, "output length %v", c.Output)
	}
	c.checkLoop(need)
	if len(bad) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(bad, "; "))
	}
	return nil
}

func (c *Config) checkLoop(need func(bool, string, ...any)) {
	if !c.open() {
		need(c.Rate == 0, "rate %g is below 0", c.Rate)
		need(c.Clients >= 1 && c.Clients <= maxClients, "clients %d is not in [1, %d]", c.Clients, maxClients)
		need(c.Requests >= 1, "requests %d is below 1", c.Requests)
		need(c.Clients*c.Requests <= maxItems, "more than %d requests in a round", maxItems)
		return
	}
	need(c.CV >= 0 && c.CV <= 100, "cv %g is not in [0, 100]", c.CV)
	need(c.Total > 0 || c.Duration > 0, "an open loop needs a number of requests or a duration")
	need(c.Total >= 0 && c.Total <= maxItems, "requests %d is not in [0, %d]", c.Total, maxItems)
}

// maxClients bounds the connections of a closed loop.
const maxClients = 1 << 14
