package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// signals gives a context that ends with the first SIGINT or SIGTERM; the
// second ends the process at once.
func signals() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, ok := <-ch; !ok {
			return
		}
		cancel()
		if _, ok := <-ch; ok {
			fmt.Fprintln(os.Stderr, "chorale: second signal, ending at once")
			os.Exit(137)
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(ch)
		cancel()
	}
}
