package main

import (
	"errors"
	"os"
	"time"

	"go.uber.org/zap"

	"chorale/worker/tensor"
)

// leave is how long a process with a lost device may take to end: the driver of
// one that fell off the bus may never answer again.
const leave = 10 * time.Second

// report tells the last of a worker whose device is lost: what failed, where, and
// what the driver said meanwhile. The process must end then, for no other can use
// the device as long as this one holds it broken.
func (w *workerRole) report(err error) {
	if !errors.Is(err, tensor.ErrLost) {
		return
	}
	time.AfterFunc(leave, func() {
		w.log.Error("the device does not let go; ending without it")
		os.Exit(1)
	})
	fields := []zap.Field{zap.String("device", w.backend.Name()), zap.Error(err)}
	if w.monitor != nil {
		r := w.monitor.Report()
		fields = append(fields, zap.String("uuid", r.GPU.UUID), zap.String("pci", r.GPU.PCI), zap.Uint64("xid_events", r.XIDs),
			zap.Uint64("last_xid", r.LastXID), zap.String("unhealthy", r.Unhealthy))
	}
	w.log.Error("the device is lost: this process ends", fields...)
}
