package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"chorale/router"
)

// deviceCollector exports what worker groups last told of their GPUs.
type deviceCollector struct{ s State }

var (
	descDevice      = desc("chorale_device_info", "A GPU of a worker group; always 1.", "worker", "device", "name", "uuid")
	descDeviceOK    = desc("chorale_device_healthy", "0 for a GPU in trouble: its worker group gets no new sequences.", "worker", "device")
	descDeviceMem   = desc("chorale_device_memory_bytes", "Memory of a GPU, whoever uses it.", "worker", "device", "state")
	descDeviceBusy  = desc("chorale_device_utilization_ratio", "Share of the last sample in which a kernel ran.", "worker", "device")
	descDeviceBus   = desc("chorale_device_memory_utilization_ratio", "Share of the last sample in which device memory was used.", "worker", "device")
	descDeviceTemp  = desc("chorale_device_temperature_celsius", "Temperature of a GPU.", "worker", "device")
	descDevicePower = desc("chorale_device_power_watts", "Power that a GPU takes.", "worker", "device")
	descDeviceLimit = desc("chorale_device_power_limit_watts", "Power that a GPU may take.", "worker", "device")
	descDeviceECC   = desc("chorale_device_ecc_errors_total", "Memory errors since the driver was loaded.", "worker", "device", "kind")
	descDeviceXID   = desc("chorale_device_xid_events_total", "Errors that the driver reported since the worker's start.", "worker", "device")
	descDeviceLast  = desc("chorale_device_last_xid", "Number of the driver's last error; 0 for none.", "worker", "device")
	deviceDescs     = []*prometheus.Desc{descDevice, descDeviceOK, descDeviceMem, descDeviceBusy, descDeviceBus, descDeviceTemp, descDevicePower, descDeviceLimit, descDeviceECC, descDeviceXID, descDeviceLast}
)

// Describe lists the metrics.
func (c *deviceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range deviceDescs {
		ch <- d
	}
}

// Collect reads the state.
func (c *deviceCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.s.State()
	for i := range st.Groups {
		g := &st.Groups[i]
		for j := range g.Devices {
			collectDevice(ch, g.Address, &g.Devices[j])
		}
	}
}

func collectDevice(ch chan<- prometheus.Metric, worker string, d *router.DeviceState) {
	device := strconv.Itoa(d.Index)
	put := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(desc, kind, v, append([]string{worker, device}, more...)...)
	}
	healthy := 1.0
	if d.Unhealthy != "" {
		healthy = 0
	}
	put(descDevice, prometheus.GaugeValue, 1, d.Name, d.UUID)
	put(descDeviceOK, prometheus.GaugeValue, healthy)
	put(descDeviceMem, prometheus.GaugeValue, float64(d.MemoryUsed), "used")
	put(descDeviceMem, prometheus.GaugeValue, float64(d.MemoryTotal-d.MemoryUsed), "free")
	put(descDeviceBusy, prometheus.GaugeValue, d.Utilization)
	put(descDeviceBus, prometheus.GaugeValue, d.MemoryUtilization)
	put(descDeviceTemp, prometheus.GaugeValue, float64(d.Temperature))
	put(descDevicePower, prometheus.GaugeValue, d.Power)
	put(descDeviceLimit, prometheus.GaugeValue, d.PowerLimit)
	if d.ECCEnabled {
		put(descDeviceECC, prometheus.CounterValue, float64(d.ECCCorrected), "corrected")
		put(descDeviceECC, prometheus.CounterValue, float64(d.ECCUncorrected), "uncorrected")
	}
	put(descDeviceXID, prometheus.CounterValue, float64(d.XIDs))
	put(descDeviceLast, prometheus.GaugeValue, float64(d.LastXID))
}
