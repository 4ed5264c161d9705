// What ranks do through each other's memory: see device/peer.cuh.
#pragma once

#include "comm.h"
#include "peer.cuh"
#include "ranks.h"

struct ch_peers {
	ch_context *context = nullptr;
	int32_t rank = 0, size = 0;
	char *memory[chorale::peer::kRanks] = {}; // of all ranks
	uint32_t *done = nullptr;
	uint32_t *over = nullptr; // on the host
};

namespace chorale {

// with_peers is a group whose messages of some sizes (ch_group.peer_sizes) go
// through the peers' memory, and the rest another way.
std::unique_ptr<Group> with_peers(ch_peers &p, uint64_t sizes, bool half, std::unique_ptr<Group> rest);

// nccl_group is a group of GPUs; half has them send bfloat16.
std::unique_ptr<Group> nccl_group(ch_comm &m, bool half);

} // namespace chorale
