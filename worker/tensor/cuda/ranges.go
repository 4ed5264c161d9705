package cuda

// driverRanges is device memory for what comes and goes while steps run, from
// the driver's own pool: neither taking nor giving waits for the device. A range
// that is given back may be handed out at once, so no stream may still use it.
type driverRanges struct{ d driver }

func (r driverRanges) take(bytes int64) (addr, error) { return r.d.rangeAlloc(bytes) }
func (r driverRanges) give(at addr, _ int64)          { r.d.rangeFree(at) }
