package figure

import (
	"os"
	"strings"
	"time"
)

// The kinds of results.
const (
	KindServe     = "serve"
	KindSweep     = "sweep"
	KindKernels   = "kernels"
	KindEngine    = "engine"
	KindColdstart = "coldstart"
	KindAdapters  = "adapters"
)

// Head is what every result begins with.
type Head struct {
	// Kind is one of the kinds; files from before there were several have none.
	Kind string `json:"kind,omitempty"`
	// Command is the command line, if the caller set it.
	Command []string  `json:"command,omitempty"`
	Version string    `json:"version,omitempty"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	// Stopped tells why the measurement ended early.
	Stopped string  `json:"stopped,omitempty"`
	Machine Machine `json:"machine"`
	// Device is what computed, where that is known.
	Device *Device `json:"device,omitempty"`
}

// Begin starts a result.
func Begin(kind string) Head {
	return Head{Kind: kind, Started: time.Now(), Machine: ThisMachine()}
}

// End notes how long it took and what load the machine then had.
func (h *Head) End() {
	h.Seconds = time.Since(h.Started).Seconds()
	h.Machine.LoadAtEnd = LoadAverage()
}

// Device is one device that computed.
type Device struct {
	Name      string `json:"name"`
	MemoryMiB int64  `json:"memory_mib,omitempty"`
	// Versions of the driver and the libraries, by name.
	Versions map[string]string `json:"versions,omitempty"`
	// BytesPerSecond is the bandwidth that floors are computed with, and Probe
	// how it was found.
	BytesPerSecond float64 `json:"bytes_per_second,omitempty"`
	Probe          string  `json:"probe,omitempty"`
}

// named is a backend; what more it knows of its device it may tell.
type named interface{ Name() string }

// DeviceOf asks a backend what it is.
func DeviceOf(b named) *Device {
	d := &Device{Name: b.Name(), Versions: map[string]string{}}
	if m, ok := b.(interface {
		Memory() (free, total int64, err error)
	}); ok {
		if _, total, err := m.Memory(); err == nil {
			d.MemoryMiB = total >> 20
		}
	}
	if v, ok := b.(interface{ Versions() map[string]string }); ok {
		for k, s := range v.Versions() {
			d.Versions[k] = s
		}
	}
	if strings.HasPrefix(d.Name, "cuda") && d.Versions["driver"] == "" {
		if text, err := os.ReadFile("/proc/driver/nvidia/version"); err == nil {
			if v := driverVersion(string(text)); v != "" {
				d.Versions["driver"] = v
			}
		}
	}
	return d
}

// driverVersion finds the version in "NVRM version: NVIDIA UNIX x86_64 Kernel
// Module  580.95.05  Tue …".
func driverVersion(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	for _, f := range strings.Fields(line) {
		if f[0] >= '0' && f[0] <= '9' && strings.Contains(f, ".") {
			return f
		}
	}
	return ""
}
