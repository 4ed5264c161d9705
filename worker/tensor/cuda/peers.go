package cuda

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// peerMost is the longest message through peers' memory.
const peerMost = 4 << 20

// PeerTime is what a sum of so many bytes takes.
type PeerTime struct {
	Bytes       int64
	Peers, NCCL float32 // microseconds; -1 where sums come out wrong
}

// PeerTimes tells what was measured when the group was set up, and the sizes of
// messages that go through the peers' memory: bit n for those of more than 2^(n-1)
// and at most 2^n bytes.
func (b *Backend) PeerTimes() (times []PeerTime, sizes uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ranks == nil {
		return nil, 0
	}
	return b.ranks.times, b.ranks.peerSizes
}

// openPeers lets the ranks' GPUs see each other's memory, if all of them can and
// it pays.
func (r *ranks) openPeers(d driver) error {
	if r.o.peers == PeersOff || r.o.peers == PeersAuto && r.comm == nil || r.g.Size() == 1 {
		return nil
	}
	p, handle, why := d.openPeers(r.g.Rank(), r.g.Size())
	handles, err := r.handles(handle)
	if why == nil && err == nil {
		if why = errHosts; handles != nil {
			why = p.connect(handles)
		}
	}
	var all bool
	if err == nil {
		all, err = r.all(why == nil)
	}
	if err == nil && all {
		r.peers, r.peerSizes = p, 2*peerMost-1
		if r.o.peers == PeersAuto {
			err = r.measure()
		}
		return err
	}
	if p != nil {
		p.close()
	}
	if err == nil && r.o.peers == PeersAlways {
		err = fmt.Errorf("peers: not all ranks see each other's memory: %w", errors.Join(tensor.ErrUnsupported, why))
	}
	return err
}

var errHosts = errors.New("not all ranks run on one machine")

// handles brings the handles of all ranks together, by rank; nil when they are on
// several machines, where a handle means something else.
func (r *ranks) handles(own []byte) ([]byte, error) {
	id, err := os.ReadFile(bootID)
	if err != nil {
		id = []byte(err.Error())
	}
	sum := sha256.Sum256(id)
	each := handleBytes + len(sum)
	mine, all := make([]byte, handleBytes, each), make([]byte, each*r.g.Size())
	copy(mine, own)
	if err := r.g.AllGather(all, append(mine, sum[:]...)); err != nil {
		return nil, err
	}
	var out []byte
	for rank := range r.g.Size() {
		v := all[rank*each : (rank+1)*each]
		if !bytes.Equal(v[handleBytes:], sum[:]) {
			return nil, nil
		}
		out = append(out, v[:handleBytes]...)
	}
	return out, nil
}

// bootID tells machines apart, and a machine's runs.
const bootID = "/proc/sys/kernel/random/boot_id"

// all tells whether something is true on all ranks.
func (r *ranks) all(yes bool) (bool, error) {
	own, votes := make([]byte, 1), make([]byte, r.g.Size())
	if yes {
		own[0] = 1
	}
	if err := r.g.AllGather(votes, own); err != nil {
		return false, err
	}
	for _, v := range votes {
		if v == 0 {
			return false, nil
		}
	}
	return true, nil
}

// measured is the shortest message that is measured; shorter ones go as it does.
const measured = 4 << 10

// measure finds for which sizes the peers' memory is faster than NCCL, by rank 0's
// watch, and right on all ranks.
func (r *ranks) measure() error {
	var sizes []int64
	for n := int64(measured); n <= peerMost; n *= 2 {
		sizes = append(sizes, n)
	}
	peers, nccl, err := r.peers.measure(r.comm, r.o.half, sizes)
	if err != nil {
		return r.fail(err)
	}
	var right, faster uint64
	for i, n := range sizes {
		r.times = append(r.times, PeerTime{n, peers[i], nccl[i]})
		if peers[i] >= 0 {
			right |= uint64(n)
		}
		if peers[i] < nccl[i] {
			faster |= uint64(n)
		}
	}
	all := make([]uint64, 2*r.g.Size())
	if err := r.g.AllGather(collective.Bytes(all), collective.Bytes([]uint64{right, faster})); err != nil {
		return err
	}
	r.peerSizes = all[1]
	for rank := range r.g.Size() {
		r.peerSizes &= all[2*rank]
	}
	if r.peerSizes&measured != 0 {
		r.peerSizes |= measured - 1
	}
	return nil
}
