package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticks a second of /proc/PID/stat: USER_HZ, 100 on every Linux that Go runs
// on.
const ticks = 100

// CPUSeconds is user and system time that a process has used. It is steadier
// than the clock on a machine that others use too; spinning counts.
func CPUSeconds(pid int) (float64, error) {
	if pid <= 0 {
		return 0, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("bench: CPU time of process %d: %w", pid, err)
	}
	return parseStat(string(b))
}

// parseStat reads fields 14 and 15; the name in field 2 may hold blanks and
// parentheses.
func parseStat(s string) (float64, error) {
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("bench: /proc/PID/stat has %d fields", len(f))
	}
	user, err1 := strconv.ParseUint(f[11], 10, 64)
	system, err2 := strconv.ParseUint(f[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("bench: /proc/PID/stat: times %q, %q", f[11], f[12])
	}
	return float64(user+system) / ticks, nil
}
