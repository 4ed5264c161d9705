package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"chorale/router"
)

var (
	descRanks    = desc("chorale_worker_ranks", "Processes of a worker group.", "worker")
	descRestarts = desc("chorale_worker_restarts_total", "How often a worker group's ranks were started again.", "worker")
	descPlans    = desc("chorale_plan_seconds", "Time to hand a step to a worker group's other ranks.", "worker")
	rankDescs    = []*prometheus.Desc{descRanks, descRestarts, descPlans}
)

// collectRanks tells of a group's processes; of plans only where there are several.
func collectRanks(ch chan<- prometheus.Metric, g *router.GroupState) {
	ch <- prometheus.MustNewConstMetric(descRanks, prometheus.GaugeValue, float64(g.Info.Ranks), g.Address)
	ch <- prometheus.MustNewConstMetric(descRestarts, prometheus.CounterValue, float64(g.Info.Restarts), g.Address)
	p := &g.Status.Plans
	if len(p.Counts) != len(p.Bounds)+1 {
		return
	}
	upTo, total := map[float64]uint64{}, uint64(0)
	for i, n := range p.Counts {
		if total += n; i < len(p.Bounds) {
			upTo[p.Bounds[i]] = total
		}
	}
	ch <- prometheus.MustNewConstHistogram(descPlans, total, p.Seconds, upTo, g.Address)
}
