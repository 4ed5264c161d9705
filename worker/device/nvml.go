//go:build cgo && linux

package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Driver is NVIDIA's management library. It is safe for concurrent use.
type Driver struct {
	lib nvml.Interface
	// Version is the driver's, "580.159.04"; CUDA the newest that it serves,
	// "13.0".
	Version, CUDA string

	close sync.Once
}

// Open loads and starts the library; library is its path, empty for the usual
// one. Without one the error wraps ErrNoDriver.
func Open(library string) (*Driver, error) {
	var opts []nvml.LibraryOption
	if library != "" {
		// A file that is missing must not be looked for elsewhere.
		if _, err := os.Stat(library); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoDriver, err)
		}
		opts = append(opts, nvml.WithLibraryPath(library))
	}
	d := &Driver{lib: nvml.New(opts...)}
	switch ret := d.lib.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return nil, ErrNoDriver
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return nil, fmt.Errorf("%w: its library is installed, but the driver is not loaded", ErrNoDriver)
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return nil, fmt.Errorf("%w: its library and the loaded driver have different versions: restart the machine", ErrNoDriver)
	default:
		return nil, fmt.Errorf("%w: NVML does not start: %s", ErrNoDriver, ret.String())
	}
	d.Version, _ = d.lib.SystemGetDriverVersion()
	if v, ret := d.lib.SystemGetCudaDriverVersion(); ret == nvml.SUCCESS {
		d.CUDA = fmt.Sprintf("%d.%d", v/1000, v%1000/10)
	}
	return d, nil
}

// Close ends the use of the library.
func (d *Driver) Close() { d.close.Do(func() { _ = d.lib.Shutdown() }) }

// failed turns an answer into an error, nil for success.
func failed(what string, ret nvml.Return) error {
	if ret == nvml.SUCCESS {
		return nil
	}
	return fmt.Errorf("%s: %s", what, ret.String())
}

// ErrLost reports a GPU that the driver can no longer reach.
var ErrLost = errors.New("the GPU is lost: the driver no longer reaches it")

// GPUs lists all GPUs, hidden ones too.
func (d *Driver) GPUs() ([]GPU, error) {
	n, ret := d.lib.DeviceGetCount()
	if err := failed("number of GPUs", ret); err != nil {
		return nil, err
	}
	out := make([]GPU, n)
	uuids := make([]string, n)
	for i := range out {
		h, ret := d.lib.DeviceGetHandleByIndex(i)
		if ret == nvml.ERROR_GPU_IS_LOST {
			return nil, fmt.Errorf("GPU %d: %w", i, ErrLost)
		}
		if err := failed(fmt.Sprintf("GPU %d", i), ret); err != nil {
			return nil, err
		}
		g, err := describe(h)
		if err != nil {
			return nil, fmt.Errorf("GPU %d: %w", i, err)
		}
		g.Index, g.Ordinal, g.MemoryBandwidth = i, -1, d.bandwidth(h)
		out[i], uuids[i] = g, g.UUID
	}
	v, set := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	for ordinal, i := range Visible(v, set, uuids) {
		out[i].Ordinal = ordinal
	}
	return out, nil
}

// describe asks for everything. What a GPU cannot tell stays zero; only a GPU
// that is gone is an error.
func describe(h nvml.Device) (GPU, error) {
	var g GPU
	var ret nvml.Return
	if g.UUID, ret = h.GetUUID(); ret == nvml.ERROR_GPU_IS_LOST {
		return g, ErrLost
	}
	g.Name, _ = h.GetName()
	if pci, ret := h.GetPciInfo(); ret == nvml.SUCCESS {
		g.PCI = text(pci.BusId[:])
	}
	if major, minor, ret := h.GetCudaComputeCapability(); ret == nvml.SUCCESS {
		g.Capability = fmt.Sprintf("%d.%d", major, minor)
	}
	m, ret := h.GetMemoryInfo()
	if ret == nvml.ERROR_GPU_IS_LOST {
		return g, ErrLost
	}
	g.MemoryTotal, g.MemoryUsed = int64(m.Total), int64(m.Used)
	if u, ret := h.GetUtilizationRates(); ret == nvml.SUCCESS {
		g.Utilization, g.MemoryUtilization = float64(u.Gpu)/100, float64(u.Memory)/100
	}
	if t, ret := h.GetTemperature(nvml.TEMPERATURE_GPU); ret == nvml.SUCCESS {
		g.Temperature = int(t)
	}
	if p, ret := h.GetPowerUsage(); ret == nvml.SUCCESS {
		g.Power = float64(p) / 1000
	}
	if p, ret := h.GetEnforcedPowerLimit(); ret == nvml.SUCCESS {
		g.PowerLimit = float64(p) / 1000
	}
	g.ECC = memoryErrors(h)
	return g, nil
}

func memoryErrors(h nvml.Device) ECC {
	var e ECC
	if now, _, ret := h.GetEccMode(); ret != nvml.SUCCESS || now != nvml.FEATURE_ENABLED {
		return e
	}
	e.Enabled = true
	e.Corrected, _ = h.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC)
	e.Uncorrected, _ = h.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	return e
}

// text is a zero-ended string.
func text[T int8 | uint8](b []T) string {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		if c == 0 {
			break
		}
		out = append(out, byte(c))
	}
	return string(out)
}

// gpu finds a GPU by its UUID.
func (d *Driver) gpu(uuid string) (nvml.Device, error) {
	h, ret := d.lib.DeviceGetHandleByUUID(uuid)
	if ret == nvml.ERROR_GPU_IS_LOST {
		return nil, ErrLost
	}
	return h, failed("GPU "+uuid, ret)
}

// bandwidth is what the memory could move at its highest clock: two transfers a
// cycle over its whole width.
func (d *Driver) bandwidth(h nvml.Device) float64 {
	if d.lib.Extensions().LookupSymbol("nvmlDeviceGetMemoryBusWidth") != nil {
		return 0 // a driver from before 2022
	}
	bits, ret := h.GetMemoryBusWidth()
	if ret != nvml.SUCCESS {
		return 0
	}
	mhz, ret := h.GetMaxClockInfo(nvml.CLOCK_MEM)
	if ret != nvml.SUCCESS {
		return 0
	}
	return 2 * float64(mhz) * 1e6 * float64(bits) / 8
}

// read describes one GPU anew; what does not change stays zero.
func (d *Driver) read(uuid string) (GPU, error) {
	h, err := d.gpu(uuid)
	if err != nil {
		return GPU{}, err
	}
	return describe(h)
}

// events calls on for each event of a GPU until ctx ends. It returns at once,
// without error, where the driver reports none.
func (d *Driver) events(ctx context.Context, uuid string, on func(Event)) error {
	h, err := d.gpu(uuid)
	if err != nil {
		return err
	}
	set, ret := d.lib.EventSetCreate()
	if err := failed("event set", ret); err != nil {
		return err
	}
	defer func() { _ = set.Free() }()
	const kinds = nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError
	if ret := h.RegisterEvents(kinds, set); ret == nvml.ERROR_NOT_SUPPORTED {
		if ret = h.RegisterEvents(nvml.EventTypeXidCriticalError, set); ret == nvml.ERROR_NOT_SUPPORTED {
			return nil
		}
	} else if err := failed("events", ret); err != nil {
		return err
	}
	const patience = 500 // ms until ctx is looked at again
	for ctx.Err() == nil {
		e, ret := set.Wait(patience)
		switch {
		case ret == nvml.ERROR_TIMEOUT:
		case ret == nvml.ERROR_GPU_IS_LOST:
			return ErrLost
		case ret != nvml.SUCCESS:
			return failed("waiting for events", ret)
		case e.EventType == nvml.EventTypeXidCriticalError:
			on(xid(e.EventData))
		default:
			on(Event{Text: "double-bit ECC error", Fatal: true})
		}
	}
	return nil
}
