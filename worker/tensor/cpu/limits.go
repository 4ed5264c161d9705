package cpu

// Limits are what the processor can do at best, as measured: the ceilings that
// a step's time is compared with.
type Limits struct {
	Threads int
	// Read is the rate of reading memory that is in no cache, in bytes a second.
	Read float64
	// FMA is the peak of float32 multiply-adds, in operations a second (a
	// multiply and an add count two). 0 when it was not measured.
	FMA float64
	// Dot is the peak of VDPBF16PS in the same unit; 0 where there is none.
	Dot float64
	// Tiles is the peak of TDPBF16PS (AMX) in the same unit; 0 where there is none.
	Tiles float64
}

// Peak is the highest of the arithmetic rates.
func (l Limits) Peak() float64 { return max(l.FMA, l.Dot, l.Tiles) }

// MeasureLimits measures on threads threads (0: GOMAXPROCS), about half a
// second, using 256 MiB. Every figure is the best of several runs: other load
// only ever lowers them.
func MeasureLimits(threads int) (Limits, error) { return measureLimits(threads) }

// ReadRate measures Limits.Read alone, in some 20 ms and 64 MiB. The error
// wraps tensor.ErrUnsupported where it cannot.
func ReadRate(threads int) (float64, error) { return readRate(threads, rateBytes, rateRuns) }

const (
	limitBytes, limitRuns = 256 << 20, 7
	rateBytes, rateRuns   = 64 << 20, 2
)
