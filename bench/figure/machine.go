package figure

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Machine is what the benchmark runs on; a figure without it says little. In
// comparisons of CPUs the servers run on the same one.
type Machine struct {
	OS        string `json:"os"`
	Arch      string `json:"arch"`
	Kernel    string `json:"kernel,omitempty"`
	CPU       string `json:"cpu,omitempty"`
	Cores     int    `json:"cores"`
	MemoryMiB int64  `json:"memory_mib,omitempty"`
	Go        string `json:"go"`
	// Load averages of the last minute, at start and end: above the number of
	// cores in use by the target means that others disturbed the measurement.
	LoadAtStart float64 `json:"load_at_start"`
	LoadAtEnd   float64 `json:"load_at_end"`
}

// ThisMachine reads what Linux tells; elsewhere less is known.
func ThisMachine() Machine {
	m := Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version(), LoadAtStart: LoadAverage()}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	m.CPU = procField("/proc/cpuinfo", "model name")
	if f := strings.Fields(procField("/proc/meminfo", "MemTotal")); len(f) > 0 {
		if kb, err := strconv.ParseInt(f[0], 10, 64); err == nil {
			m.MemoryMiB = kb >> 10
		}
	}
	return m
}

// procField is the first value of a "key : value" file.
func procField(path, key string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// LoadAverage is the last minute's; 0 where nobody tells.
func LoadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	f, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(f, 64)
	if err != nil {
		return 0
	}
	return v
}
