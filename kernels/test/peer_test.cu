// Checks sums and copies through ranks' memory on the CPU: ranks are blocks of one
// launch that take turns, so what is checked is who writes what where and when it
// may be written again, not the order of writes between devices.
//
//	g++ -std=c++20 -O2 -fno-strict-aliasing -x c++ -DCHORALE_ON_CPU -Ikernels/test/on_cpu -Ikernels/device kernels/test/peer_test.cu -o peer_test
//	peer_test [cases]
#include "on_cpu.h"

#include "peer.cuh"

#include <cstdio>
#include <random>

using namespace chorale::peer;

namespace {

std::mt19937 rng(1);
int failures = 0;

int between(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(rng); }

// Team is ranks that have met.
struct Team {
	int ranks;
	std::vector<std::vector<char>> memory;
	std::vector<std::vector<uint32_t>> done;
	uint32_t over = 0;

	explicit Team(int n) : ranks(n), memory(n, std::vector<char>(memory_bytes(n))), done(n, std::vector<uint32_t>(kBlocks)) {}

	Args args(int rank) {
		Args a = {};
		for (int r = 0; r < ranks; r++) {
			a.memory[r] = memory[r].data();
		}
		a.rank = rank, a.ranks = ranks, a.done = done[rank].data(), a.over = &over;
		return a;
	}
};

// Operation is one of several that run one after another on each rank, without
// waiting for the other ranks between.
struct Operation {
	std::vector<Args> args; // by rank
	std::vector<std::vector<uint32_t>> src, dst, want;
};

float float_of(uint32_t bits) { return __uint_as_float(bits); }
uint32_t bits_of(float x) { return __float_as_uint(x); }

Operation make(Team &t) {
	Operation o;
	const bool sum = between(0, 1) != 0;
	const Mode mode = static_cast<Mode>(between(0, sum ? kBrief : kWide));
	const Mode how = !sum && between(0, 1) ? kBrief : mode;
	int words = between(1, 2000);
	if (how == kWide || how == kHalf) {
		words = (words + 3) / 4 * 4;
	}
	for (int r = 0; r < t.ranks; r++) {
		std::vector<uint32_t> v(words);
		for (uint32_t &x : v) {
			x = sum ? bits_of(static_cast<float>(between(-128, 128))) : rng(); // exact in bfloat16
		}
		o.src.push_back(v);
	}
	for (int r = 0; r < t.ranks; r++) {
		std::vector<uint32_t> all;
		for (int q = 0; q < t.ranks && !sum; q++) {
			all.insert(all.end(), o.src[q].begin(), o.src[q].end());
		}
		for (int i = 0; i < words && sum; i++) {
			float x = 0;
			for (int q = 0; q < t.ranks; q++) {
				x += float_of(o.src[q][i]);
			}
			all.push_back(bits_of(x));
		}
		o.want.push_back(all);
		o.dst.push_back(std::vector<uint32_t>(all.size(), 0xdddddddd));
	}
	for (int r = 0; r < t.ranks; r++) {
		Args a = t.args(r);
		a.bytes = words * 4, a.sum = sum, a.mode = how;
		o.args.push_back(a);
	}
	return o;
}

// Run is what the blocks of a launch do: operations in order, of which all blocks
// of a rank end one before they begin the next.
struct Run {
	std::vector<Operation> *operations;
	int ranks;
	std::vector<int> *ended; // by rank and operation
};

void kernel(Run run) {
	const int rank = blockIdx.x / kBlocks, block = blockIdx.x % kBlocks;
	for (size_t i = 0; i < run.operations->size(); i++) {
		operate((*run.operations)[i].args[rank], block);
		__syncthreads();
		int &ended = (*run.ended)[i * run.ranks + rank];
		if (threadIdx.x == 0) {
			ended++;
		}
		while (ended < kBlocks) {
			on_cpu::yield();
		}
		__syncthreads();
	}
}

void check(int ranks) {
	Team t(ranks);
	for (int round = 0; round < 3; round++) {
		std::vector<Operation> operations(between(1, 6));
		for (Operation &o : operations) {
			o = make(t);
		}
		for (Operation &o : operations) { // where they are in the end
			for (int r = 0; r < ranks; r++) {
				o.args[r].src = reinterpret_cast<char *>(o.src[r].data());
				o.args[r].dst = reinterpret_cast<char *>(o.dst[r].data());
				if (o.args[r].sum) { // in place
					o.dst[r] = o.src[r];
					o.args[r].src = o.args[r].dst = reinterpret_cast<char *>(o.dst[r].data());
				}
			}
		}
		std::vector<int> ended(operations.size() * ranks);
		cudaLaunchConfig_t config = {};
		config.gridDim = ranks * kBlocks, config.blockDim = kThreads;
		on_cpu::by_turns = true;
		cudaLaunchKernelEx(&config, kernel, Run{&operations, ranks, &ended});
		for (const Operation &o : operations) {
			for (int r = 0; r < ranks; r++) {
				if (o.dst[r] != o.want[r] && failures++ < 10) {
					printf("rank %d of %d, %s of %lld bytes, mode %d: wrong\n", r, ranks, o.args[r].sum ? "sum" : "copy", static_cast<long long>(o.args[r].bytes), o.args[r].mode);
				}
			}
		}
	}
}

// gone: who waits for a rank that does not come is freed when the group is over.
void gone() {
	for (const Mode mode : {kWide, kBrief}) {
		Team t(2);
		t.over = 1;
		std::vector<float> x(64, 1);
		Args a = t.args(0);
		a.src = a.dst = reinterpret_cast<char *>(x.data());
		a.bytes = 256, a.sum = true, a.mode = mode;
		cudaLaunchConfig_t config = {};
		config.gridDim = kBlocks, config.blockDim = kThreads;
		cudaLaunchKernelEx(&config, peer_kernel, a);
		if (t.done[0][0] != 0) {
			failures++;
			printf("mode %d: done without the other rank\n", mode);
		}
	}
}

} // namespace

int main(int argc, char **argv) {
	const int cases = argc > 1 ? atoi(argv[1]) : 20;
	pauses = [] { return between(0, 9) == 0 ? between(1, 60) : 1; };
	for (int i = 0; i < cases; i++) {
		check(between(1, 4));
	}
	gone();
	printf("%d cases, %d failures\n", cases, failures);
	return failures > 0;
}
