package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"chorale/router"
)

var (
	descMemory      = desc("chorale_memory_bytes", "The memory that a worker group's cache and adapters share: all of it, and who has how much.", "worker", "owner")
	descMemoryMoved = desc("chorale_memory_moved_bytes_total", "Memory that adapters took from the cache, and the cache from adapters.", "worker", "to")
	memoryDescs     = []*prometheus.Desc{descMemory, descMemoryMoved}
)

// collectMemory tells of a worker group's memory pool.
func collectMemory(ch chan<- prometheus.Metric, m *router.DeviceMemory, worker string) {
	for owner, v := range map[string]int64{"total": m.Total, "cache": m.Cache, "adapters": m.Adapters, "free": m.Free} {
		ch <- prometheus.MustNewConstMetric(descMemory, prometheus.GaugeValue, float64(v), worker, owner)
	}
	for to, v := range map[string]int64{"adapters": m.ToAdapters, "cache": m.ToCache} {
		ch <- prometheus.MustNewConstMetric(descMemoryMoved, prometheus.CounterValue, float64(v), worker, to)
	}
}
