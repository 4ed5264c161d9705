package supervise

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
)

// Parent is a rank's supervisor, to the rank.
type Parent struct {
	Task
	socket *os.File
	mu     sync.Mutex // of writes
	stop   chan struct{}
}

// Inherit gives this process's supervisor, nil when it has none. gone is called
// when the supervisor has ended: the process should end at once.
func Inherit(gone func()) (*Parent, error) {
	v, ok := os.LookupEnv(descriptorVariable)
	if !ok {
		return nil, nil
	}
	_ = os.Unsetenv(descriptorVariable) // what this process starts is no rank
	fd, err := strconv.Atoi(v)
	if err != nil || fd < firstFile {
		return nil, fmt.Errorf("%s=%q is no descriptor", descriptorVariable, v)
	}
	p := &Parent{socket: os.NewFile(uintptr(fd), "supervisor"), stop: make(chan struct{})}
	d := json.NewDecoder(p.socket)
	if err := d.Decode(&p.Task); err != nil {
		return nil, fmt.Errorf("the supervisor says nothing: %w", err)
	}
	go p.listen(d, gone)
	return p, nil
}

func (p *Parent) listen(d *json.Decoder, gone func()) {
	var once sync.Once
	for {
		var o order
		if err := d.Decode(&o); err != nil {
			gone()
			return
		}
		if o.Stop {
			once.Do(func() { close(p.stop) })
		}
	}
}

// File gives an inherited descriptor, counted from 0.
func (p *Parent) File(i int) *os.File {
	if i < 0 || i >= p.Files {
		return nil
	}
	return os.NewFile(p.socket.Fd()+1+uintptr(i), "inherited")
}

// Stopped is closed when the rank is asked to end in good order.
func (p *Parent) Stopped() <-chan struct{} { return p.stop }

// Ready says that the rank does its work.
func (p *Parent) Ready() { p.say(report{Ready: true}) }

// Failed says why the rank ends.
func (p *Parent) Failed(err error) { p.say(report{Failed: err.Error()}) }

func (p *Parent) say(r report) {
	b, err := json.Marshal(r)
	if err != nil {
		return // strings and booleans
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = p.socket.Write(append(b, '\n')) // a supervisor that has gone is noticed by reading
}
