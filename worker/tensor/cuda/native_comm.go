//go:build cgo && linux

package cuda

// #include <stdlib.h>
// #include "shim.h"
// #include "shim_comm.h"
import "C"

import (
	"fmt"
	"runtime/cgo"
	"time"
	"unsafe"

	"chorale/worker/tensor"
)

var (
	_ [idBytes]byte     = [C.CH_COMM_ID_BYTES]byte{}
	_ [peerMost]byte    = [C.CH_PEER_BYTES]byte{}
	_ [handleBytes]byte = [C.CH_PEER_HANDLE_BYTES]byte{}
	_ [hostReduce]byte  = [C.CH_HOST_ALL_REDUCE]byte{}
	_ [hostGather]byte  = [C.CH_HOST_ALL_GATHER]byte{}
	_ [opAllGather]byte = [C.CH_ALL_GATHER]byte{}
)

// commShims are the functions for groups of each library.
var commShims = map[*library]*C.comm_shim{} // guarded by loaded

// commShim finds the functions for groups of a library that is loaded.
func (l *library) commShim() (*C.comm_shim, error) {
	loaded.Lock()
	defer loaded.Unlock()
	if s := commShims[l]; s != nil {
		return s, nil
	}
	for path, other := range loaded.byPath {
		if other != l {
			continue
		}
		p := C.CString(path)
		defer C.free(unsafe.Pointer(p))
		s := new(C.comm_shim)
		var e C.ch_error
		if err := toError(C.comm_shim_load(p, s, &e), &e); err != nil {
			return nil, fmt.Errorf("the kernel library cannot be loaded: %w", err)
		}
		commShims[l] = s
	}
	return commShims[l], nil
}

// path is a C string of a path, null for an empty one, and its free.
func path(s string) (*C.char, func()) {
	if s == "" {
		return nil, func() {}
	}
	p := C.CString(s)
	return p, func() { C.free(unsafe.Pointer(p)) }
}

func (d *device) uuid() (id [16]byte, err error) {
	var e C.ch_error
	var info C.ch_device_info
	err = toError(C.shim_info(&d.l.shim, d.c, &info, &e), &e)
	for i := range id {
		id[i] = byte(info.uuid[i])
	}
	return id, err
}

func (d *device) ncclVersion(library string) (int, error) {
	l, err := d.l.commShim()
	if err != nil {
		return 0, err
	}
	p, free := path(library)
	defer free()
	var e C.ch_error
	var version C.int32_t
	err = toError(C.shim_comm_version(l, p, &version, &e), &e)
	return int(version), err
}

func (d *device) ncclID(library string) ([]byte, error) {
	l, err := d.l.commShim()
	if err != nil {
		return nil, err
	}
	p, free := path(library)
	defer free()
	var e C.ch_error
	id := make([]byte, idBytes)
	err = toError(C.shim_comm_new_id(l, p, unsafe.Pointer(&id[0]), &e), &e)
	return id, err
}

func (d *device) openComm(library string, id []byte, rank, size int, timeout time.Duration) (driverComm, error) {
	l, err := d.l.commShim()
	if err != nil {
		return nil, err
	}
	p, free := path(library)
	defer free()
	var e C.ch_error
	m := &deviceComm{l: l}
	err = toError(C.shim_comm_open(l, d.c, p, unsafe.Pointer(&id[0]), C.int32_t(rank), C.int32_t(size), C.int32_t(timeout.Milliseconds()), &m.m, &e), &e)
	return m, err
}

// deviceComm is a communicator of the library.
type deviceComm struct {
	l *C.comm_shim
	m *C.ch_comm
}

func (m *deviceComm) check() error {
	var e C.ch_error
	return toError(C.shim_comm_check(m.l, m.m, &e), &e)
}

func (m *deviceComm) abort() error {
	var e C.ch_error
	return toError(C.shim_comm_abort(m.l, m.m, &e), &e)
}

func (m *deviceComm) close() error {
	var e C.ch_error
	err := toError(C.shim_comm_close(m.l, m.m, &e), &e)
	m.m = nil
	return err
}

func (d *device) openPeers(rank, size int) (driverPeers, []byte, error) {
	l, err := d.l.commShim()
	if err != nil {
		return nil, nil, err
	}
	var e C.ch_error
	p, handle := &devicePeers{l: l}, make([]byte, handleBytes)
	err = toError(C.shim_peers_open(l, d.c, C.int32_t(rank), C.int32_t(size), unsafe.Pointer(&handle[0]), &p.p, &e), &e)
	if err != nil {
		return nil, nil, err
	}
	return p, handle, nil
}

// devicePeers are peers of the library.
type devicePeers struct {
	l *C.comm_shim
	p *C.ch_peers
}

func (p *devicePeers) connect(handles []byte) error {
	var e C.ch_error
	return toError(C.shim_peers_connect(p.l, p.p, unsafe.Pointer(&handles[0]), &e), &e)
}

func (p *devicePeers) measure(comm driverComm, half bool, sizes []int64) (peers, nccl []float32, err error) {
	m, ok := comm.(*deviceComm)
	if !ok {
		return nil, nil, fmt.Errorf("peers are measured against NCCL: %w", tensor.ErrUnsupported)
	}
	peers, nccl = make([]float32, len(sizes)), make([]float32, len(sizes))
	var e C.ch_error
	err = toError(C.shim_peers_measure(p.l, p.p, m.m, flag(half), C.int32_t(len(sizes)), (*C.int64_t)(unsafe.Pointer(&sizes[0])),
		(*C.float)(unsafe.Pointer(&peers[0])), (*C.float)(unsafe.Pointer(&nccl[0])), &e), &e)
	return peers, nccl, err
}

func (p *devicePeers) abort() {
	var e C.ch_error
	C.shim_peers_abort(p.l, p.p, &e) // cannot fail
}

func (p *devicePeers) close() {
	var e C.ch_error
	C.shim_peers_close(p.l, p.p, &e) // cannot fail
	p.p = nil
}

func (s *deviceStream) join(r *ranks) error {
	l, err := s.l.commShim()
	if err != nil {
		return err
	}
	var comm *C.ch_comm
	if m, ok := r.comm.(*deviceComm); ok {
		comm = m.m
	}
	var peers *C.ch_peers
	if p, ok := r.peers.(*devicePeers); ok {
		peers = p.p
	}
	if r.token == 0 {
		h := cgo.NewHandle(r)
		r.token, r.forget = uint64(h), h.Delete
	}
	s.ranks = r.g.Size()
	var e C.ch_error
	return toError(C.shim_join(l, s.s, C.int32_t(r.g.Rank()), C.int32_t(r.g.Size()), comm, C.uint64_t(r.token), peers, C.uint64_t(r.peerSizes), flag(r.o.half), &e), &e)
}

// choraleHostOperation is called by the driver when a stream comes to an
// operation of its group that the host does.
//
//export choraleHostOperation
func choraleHostOperation(token C.uint64_t, operation C.int32_t, dst, src unsafe.Pointer, count C.int64_t) {
	r, ok := cgo.Handle(token).Value().(*ranks)
	if ok {
		r.operate(int32(operation), dst, src, int(count))
	}
}
