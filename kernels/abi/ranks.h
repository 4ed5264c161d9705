// The group that a stream belongs to: how its ranks sum and copy, and the memory
// that its operations need.
#pragma once

#include <map>
#include <memory>

#include "comm.h"

namespace chorale {

// Group sums and copies between the ranks, on a stream, eagerly or recorded.
class Group {
public:
	Group(int rank, int size) : rank(rank), size(size) {}
	virtual ~Group() = default;
	// all_reduce replaces data [count] by the sum over ranks.
	virtual void all_reduce(cudaStream_t s, float *data, int64_t count) = 0;
	// all_gather puts all ranks' src [bytes] into dst [size*bytes]; src may be this
	// rank's place in dst.
	virtual void all_gather(cudaStream_t s, const void *src, void *dst, int64_t bytes) = 0;
	const int rank, size;
};

// Memory that the ranks' operations use, on the device.
constexpr int64_t kRanksScratch = 16 << 20;

// Ranks is a stream's part in its group.
struct Ranks {
	std::unique_ptr<Group> group;
	// Of sampling, for each rank and row: see device/sample_shard.cuh.
	char *exchange = nullptr;
	int32_t max_rows = 0;
	// What is brought together in pieces: packed [scratch/size], as it comes, and
	// put side by side.
	char *packed = nullptr, *gathered = nullptr, *whole = nullptr;
	// Results of all ranks, in words of one.
	char *results = nullptr;

	~Ranks();
	// grow_results makes room for the results of all ranks.
	void grow_results(int32_t words);
};

// A step's operations between ranks.
void all_reduce(ch_stream &s, const ch_op &op);
void all_gather(ch_stream &s, const ch_op &op);
void sample_shard(ch_stream &s, const ch_layout &layout, const ch_op &op);

} // namespace chorale
