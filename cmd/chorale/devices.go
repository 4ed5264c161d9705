package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/alecthomas/kong"

	"chorale/worker/device"
	"chorale/worker/tensor/cuda"
)

// listDevicesFlags show what --device may name.
type listDevicesFlags struct {
	ListDevices listDevices `help:"Show the devices that --device may name, and end."`
	JSON        bool        `name:"json" help:"With --list-devices: as JSON."`
}

// listDevices acts before the command's other flags are asked for.
type listDevices bool

// BeforeReset prints and ends the process.
func (l listDevices) BeforeReset(app *kong.Kong, ctx *kong.Context) error {
	asJSON := false
	for _, f := range ctx.Flags() {
		if f.Name == "json" {
			asJSON, _ = ctx.FlagValue(f).(bool)
		}
	}
	print := writeDevices
	if asJSON {
		print = writeDevicesJSON
	}
	if err := print(os.Stdout, findDevices()); err != nil {
		return err
	}
	app.Exit(0)
	return nil
}

// deviceList is what --list-devices shows.
type deviceList struct {
	Driver  string        `json:"driver,omitempty"` // version
	CUDA    string        `json:"cuda,omitempty"`   // newest that the driver serves
	Devices []deviceEntry `json:"devices"`
	// Notes say why there are no GPUs, or why those there cannot be used.
	Notes []string `json:"notes,omitempty"`
}

// deviceEntry is one device; of the CPU most is unknown.
type deviceEntry struct {
	// Device is its name for --device; empty for a GPU that is hidden.
	Device         string  `json:"device"`
	Name           string  `json:"name"`
	UUID           string  `json:"uuid,omitempty"`
	PCI            string  `json:"pci_bus_id,omitempty"`
	Capability     string  `json:"compute_capability,omitempty"`
	Threads        int     `json:"threads,omitempty"`
	MemoryTotal    int64   `json:"memory_total_bytes"`
	MemoryUsed     int64   `json:"memory_used_bytes"`
	Utilization    float64 `json:"utilization"`
	Temperature    int     `json:"temperature_celsius,omitempty"`
	Power          float64 `json:"power_watts,omitempty"`
	PowerLimit     float64 `json:"power_limit_watts,omitempty"`
	ECC            bool    `json:"ecc_enabled,omitempty"`
	ECCCorrected   uint64  `json:"ecc_corrected,omitempty"`
	ECCUncorrected uint64  `json:"ecc_uncorrected,omitempty"`
}

// findDevices asks the driver, and the kernel library whether it can use what
// the driver has.
func findDevices() deviceList {
	var l deviceList
	d, err := device.Open(os.Getenv("CHORALE_NVML"))
	if err == nil {
		defer d.Close()
		l.Driver, l.CUDA = d.Version, d.CUDA
		var gpus []device.GPU
		if gpus, err = d.GPUs(); err == nil {
			for _, g := range gpus {
				l.Devices = append(l.Devices, gpuEntry(g))
			}
			if _, cerr := cuda.Devices(cudaOptions()); cerr != nil {
				l.Notes = append(l.Notes, "GPUs cannot be used: "+cerr.Error())
			}
		}
	}
	if err != nil {
		l.Notes = append(l.Notes, err.Error())
	}
	l.Devices = append(l.Devices, cpuEntry())
	return l
}

func gpuEntry(g device.GPU) deviceEntry {
	e := deviceEntry{
		Name: g.Name, UUID: g.UUID, PCI: g.PCI, Capability: g.Capability, MemoryTotal: g.MemoryTotal, MemoryUsed: g.MemoryUsed,
		Utilization: g.Utilization, Temperature: g.Temperature, Power: g.Power, PowerLimit: g.PowerLimit,
		ECC: g.ECC.Enabled, ECCCorrected: g.ECC.Corrected, ECCUncorrected: g.ECC.Uncorrected,
	}
	if g.Ordinal >= 0 {
		e.Device = fmt.Sprintf("cuda:%d", g.Ordinal)
	}
	return e
}

// cpuEntry describes the machine, as far as /proc tells.
func cpuEntry() deviceEntry {
	e := deviceEntry{Device: "cpu", Name: runtime.GOARCH, Threads: runtime.GOMAXPROCS(0)}
	info, _ := os.ReadFile("/proc/cpuinfo") // other systems have none
	for line := range strings.Lines(string(info)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			e.Name = strings.TrimSpace(v)
			break
		}
	}
	if m, err := machineMemory(); err == nil {
		e.MemoryTotal, e.MemoryUsed = m.total, m.total-m.available
	}
	return e
}

func writeDevicesJSON(out io.Writer, l deviceList) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(l)
}

// writeDevices prints a table, and below it the notes.
func writeDevices(out io.Writer, l deviceList) error {
	rows := [][]string{{"DEVICE", "NAME", "MEMORY", "USED", "BUSY", "TEMP", "POWER", "COMPUTE", "ECC", "UUID"}}
	for _, d := range l.Devices {
		rows = append(rows, deviceRow(d))
	}
	var b strings.Builder
	writeTable(&b, rows, map[int]bool{2: true, 3: true, 4: true, 5: true, 6: true})
	if l.Driver != "" {
		fmt.Fprintf(&b, "\ndriver %s, CUDA %s\n", l.Driver, l.CUDA)
	}
	for _, n := range l.Notes {
		fmt.Fprintf(&b, "\n%s\n", printable(n))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func deviceRow(d deviceEntry) []string {
	row := []string{d.Device, d.Name, bytesText(d.MemoryTotal), bytesText(d.MemoryUsed), "-", "-", "-", d.Capability, "-", d.UUID}
	if d.Device == "cpu" {
		row[7] = fmt.Sprintf("%d threads", d.Threads)
		row[9] = "-"
		return row
	}
	if d.Device == "" {
		row[0] = "hidden"
	}
	row[4] = fmt.Sprintf("%.0f %%", 100*d.Utilization)
	if d.Temperature > 0 {
		row[5] = fmt.Sprintf("%d °C", d.Temperature)
	}
	if d.Power > 0 {
		row[6] = fmt.Sprintf("%.0f of %.0f W", d.Power, d.PowerLimit)
	}
	if d.ECC {
		row[8] = fmt.Sprintf("%d uncorrected", d.ECCUncorrected)
	}
	return row
}
