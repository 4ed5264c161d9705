package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// seconds are the upper bounds of the classes of request times.
var seconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// histogram counts durations by class; the zero value is empty.
type histogram struct {
	bounds []float64
	counts []uint64 // one more than bounds
	sum    float64
}

func (h *histogram) observe(v float64) {
	h.shape(seconds)
	i, _ := slices.BinarySearch(h.bounds, v)
	h.counts[i]++
	h.sum += v
}

// shape sets the classes of an empty histogram.
func (h *histogram) shape(bounds []float64) {
	if h.counts == nil {
		h.bounds, h.counts = bounds, make([]uint64, len(bounds)+1)
	}
}

// add takes in another histogram of the same classes; others are left out.
func (h *histogram) add(o *histogram) {
	if o.counts == nil {
		return
	}
	h.shape(o.bounds)
	if len(h.counts) != len(o.counts) {
		return
	}
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.sum += o.sum
}

func (h *histogram) metric(d *prometheus.Desc, labels ...string) prometheus.Metric {
	below, count := make(map[float64]uint64, len(h.bounds)), uint64(0)
	for i, n := range h.counts {
		if count += n; i < len(h.bounds) {
			below[h.bounds[i]] = count
		}
	}
	return prometheus.MustNewConstHistogram(d, count, h.sum, below, labels...)
}
