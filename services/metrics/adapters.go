package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"chorale/router"
)

var (
	descAdapterBytes = desc("chorale_adapter_bytes", "Memory that a worker group's adapters take.", "worker", "place")
	descAdapterLimit = desc("chorale_adapter_host_limit_bytes", "Most bytes of adapters in a worker group's host memory; 0: no bound.", "worker")
	descLoads        = desc("chorale_adapter_loads_total", "Adapters brought from host memory onto the device.", "worker")
	descEvictions    = desc("chorale_adapter_evictions_total", "Adapters put out of device memory to make room.", "worker")
	descLoadTime     = desc("chorale_adapter_load_seconds", "How long adapters were on their way onto the device.", "worker")
	adapterDescs     = []*prometheus.Desc{descAdapterBytes, descAdapterLimit, descLoads, descEvictions, descLoadTime}
)

// collectAdapters tells of a worker group's adapters.
func collectAdapters(ch chan<- prometheus.Metric, m *router.AdapterMemory, worker string) {
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, append([]string{worker}, labels...)...)
	}
	send(descAdapterBytes, prometheus.GaugeValue, float64(m.HostBytes), "host")
	send(descAdapterBytes, prometheus.GaugeValue, float64(m.DeviceBytes), "device")
	send(descAdapterLimit, prometheus.GaugeValue, float64(m.HostLimit))
	send(descLoads, prometheus.CounterValue, float64(m.Loads))
	send(descEvictions, prometheus.CounterValue, float64(m.Evictions))
	below, count := make(map[float64]uint64, len(m.LoadBounds)), uint64(0)
	for i, n := range m.LoadCounts {
		if count += n; i < len(m.LoadBounds) {
			below[m.LoadBounds[i]] = count
		}
	}
	ch <- prometheus.MustNewConstHistogram(descLoadTime, count, m.LoadSeconds, below, worker)
}
