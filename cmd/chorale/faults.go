//go:build faults

package main

import (
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"

	"chorale/worker/tensor"
)

// armFaults is in builds for tests alone: SIGUSR1 breaks the device.
func armFaults(b tensor.Backend, log *zap.Logger) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	go func() {
		for range ch {
			f, ok := b.(interface{ Fault() error })
			if !ok {
				log.Warn("this device cannot be broken")
				continue
			}
			log.Warn("breaking the device", zap.NamedError("result", f.Fault()))
		}
	}()
}
