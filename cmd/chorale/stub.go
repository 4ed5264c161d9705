package main

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"chorale/router"
	"chorale/services/status"
	"chorale/worker/group/supervise"
)

// stub stands in for rank 0 at its address while it cannot answer itself: whoever
// asks is told that the group is starting, and why. Rank 0 accepts at the same
// socket when it is ready.
type stub struct {
	file *os.File
	log  *zap.Logger

	mu     sync.Mutex
	why    string
	next   time.Time
	server *grpc.Server // nil while rank 0 answers
	loops  sync.WaitGroup
}

// listenerFile is a listener's socket, to be inherited.
//
// Processes that share a socket share its mode, too, and os.File.Fd makes files
// block that it knows not to. In a file that was made while the socket blocked it
// leaves the mode alone. net.FileListener in a rank still blocks the socket for a
// moment; who is caught in accept then is let go by the socket's time limit.
func listenerFile(l net.Listener) (*os.File, error) {
	t, ok := l.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("a listener on %s cannot be inherited", l.Addr().Network())
	}
	first, err := t.File()
	if err != nil {
		return nil, err
	}
	defer first.Close()
	return blockless(int(first.Fd()), l.Addr().String()) // Fd has made it block
}

// newStub stands in from now on.
func newStub(l net.Listener, log *zap.Logger) (*stub, error) {
	f, err := listenerFile(l)
	if err != nil {
		return nil, err
	}
	s := &stub{file: f, log: log}
	s.set(supervise.State{})
	return s, nil
}

// set takes note of the group's state.
func (s *stub) set(st supervise.State) {
	s.mu.Lock()
	s.why, s.next = st.Why, st.Next
	var over *grpc.Server
	switch {
	case st.Ready:
		over, s.server = s.server, nil
	case s.server == nil:
		if err := s.serve(); err != nil {
			s.log.Warn("nobody answers for the group while it starts", zap.Error(err))
		}
	}
	s.mu.Unlock()
	if over != nil { // without the lock, which answers take
		s.loops.Go(over.Stop)
	}
}

// serve begins to answer. mu is held.
func (s *stub) serve() error {
	l, err := net.FileListener(s.file)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return s.answer() }))
	s.server = server
	s.loops.Go(func() { _ = server.Serve(l) }) // until Stop
	return nil
}

// answer is what everybody is told.
func (s *stub) answer() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := router.ErrGroupRestarting
	if s.why != "" {
		err = fmt.Errorf("%w: %s", err, s.why)
		if wait := time.Until(s.next); wait > 0 {
			err = fmt.Errorf("%w; again in %v", err, wait.Round(time.Millisecond))
		}
	}
	return status.GRPC(err)
}

func (s *stub) close() {
	s.set(supervise.State{Ready: true})
	s.loops.Wait()
	s.file.Close()
}
