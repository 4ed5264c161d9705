package cuda

import (
	"errors"
	"fmt"

	"chorale/worker/collective"
	"chorale/worker/tensor"
)

// peerMost is the longest message through peers' memory.
const peerMost = 4 << 20

// PeerTime is what a sum of so many bytes takes.
type PeerTime struct {
	Bytes       int64
	Peers, NCCL float32 // microseconds
}

// PeerTimes tells what was measured when the group was set up, and up to which
// size messages go through the peers' memory; 0 for none.
func (b *Backend) PeerTimes() (times []PeerTime, most int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ranks == nil {
		return nil, 0
	}
	return b.ranks.times, b.ranks.peerBytes
}

// openPeers lets the ranks' GPUs see each other's memory, if all of them can and
// it pays.
func (r *ranks) openPeers(d driver) error {
	if r.o.peers == PeersOff || r.o.peers == PeersAuto && r.comm == nil || r.g.Size() == 1 {
		return nil
	}
	p, handle, why := d.openPeers(r.g.Rank(), r.g.Size())
	if why != nil {
		handle = make([]byte, handleBytes)
	}
	handles := make([]byte, handleBytes*r.g.Size())
	err := r.g.AllGather(handles, handle)
	if why == nil && err == nil {
		why = p.connect(handles)
	}
	var all bool
	if err == nil {
		all, err = r.all(why == nil)
	}
	if err == nil && all {
		r.peers, r.peerBytes = p, peerMost
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

// measure finds up to which size the peers' memory is faster than NCCL; rank 0's
// watch decides for all.
func (r *ranks) measure() error {
	var sizes []int64
	for n := int64(4 << 10); n <= peerMost; n *= 2 {
		sizes = append(sizes, n)
	}
	peers, nccl, err := r.peers.measure(r.comm, r.o.half, sizes)
	if err != nil {
		return r.fail(err)
	}
	r.peerBytes = 0
	wins := true
	for i, n := range sizes {
		r.times = append(r.times, PeerTime{n, peers[i], nccl[i]})
		if wins = wins && peers[i] < nccl[i]; wins {
			r.peerBytes = n
		}
	}
	most := []int64{r.peerBytes}
	if err := r.g.Broadcast(collective.Bytes(most), 0); err != nil {
		return err
	}
	r.peerBytes = most[0]
	return nil
}
