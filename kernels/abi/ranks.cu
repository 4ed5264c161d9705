// Joining a group, and the two ways of its operations: NCCL and the host.
#include "ranks.h"

#include "peer.h"
#include "stream.h"
#include "vec.cuh"

namespace chorale {

namespace {

// narrow_kernel and widen_kernel change precision, eight values a thread.
__global__ void narrow_kernel(bf16 *to, const float *from, int64_t n) {
	const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
	if (i < n) {
		store8(to + i, load8(from + i));
	}
}
__global__ void widen_kernel(float *to, const bf16 *from, int64_t n) {
	const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
	if (i < n) {
		store8(to + i, load8(from + i));
	}
}

// Values that are sent as bfloat16 at a time.
constexpr int64_t kHalves = 8 << 20;

// Nccl is a group of GPUs.
class Nccl final : public Group {
public:
	Nccl(ch_comm &m, bool half) : Group(m.nccl.rank, m.nccl.size), m(m) {
		if (half) {
			check(cudaMalloc(&halves, kHalves * sizeof(bf16)), "memory for a group");
		}
	}
	~Nccl() override { cudaFree(halves); }

	void all_reduce(cudaStream_t s, float *data, int64_t count) override {
		if (halves == nullptr || count % 8 != 0) {
			run([&] { m.nccl.all_reduce(data, count, nccl::kFloat32, s); });
			return;
		}
		for (int64_t at = 0; at < count; at += kHalves) {
			const int64_t n = std::min(kHalves, count - at);
			const auto blocks = static_cast<unsigned>((n + 2047) / 2048);
			narrow_kernel<<<blocks, 256, 0, s>>>(halves, data + at, n);
			run([&] { m.nccl.all_reduce(halves, n, nccl::kBFloat16, s); });
			widen_kernel<<<blocks, 256, 0, s>>>(data + at, halves, n);
			check(cudaGetLastError(), "launch");
		}
	}
	void all_gather(cudaStream_t s, const void *src, void *dst, int64_t bytes) override {
		run([&] { m.nccl.all_gather(src, dst, bytes, nccl::kByte, s); });
	}

private:
	template <class F> void run(F f) {
		try {
			f();
		} catch (const nccl::Failure &e) {
			translate(e);
		}
	}
	ch_comm &m;
	bf16 *halves = nullptr;
};

// Bytes that go through the host at a time.
constexpr int64_t kStage = 4 << 20;

// fence_kernel stands between a copy and the next kernel: only the launch after a
// kernel may be brought up early.
__global__ void fence_kernel() {}

// Host is a group whose operations the host does: data goes through pinned memory,
// a piece at a time, because the memory must be the same in every recorded graph.
class Host final : public Group {
public:
	Host(const ch_group &g) : Group(g.rank, g.size), function(g.host), token(g.token) {
		check(cudaMallocHost(&in, kStage), "pinned memory for a group");
		const cudaError_t e = cudaMallocHost(&out, kStage * size);
		if (e != cudaSuccess) {
			cudaFreeHost(in);
		}
		check(e, "pinned memory for a group");
	}
	~Host() override {
		cudaFreeHost(in);
		cudaFreeHost(out);
	}

	void all_reduce(cudaStream_t s, float *data, int64_t count) override {
		const int64_t most = kStage / static_cast<int64_t>(sizeof(float));
		for (int64_t at = 0; at < count; at += most) {
			const int64_t n = std::min(most, count - at), bytes = n * static_cast<int64_t>(sizeof(float));
			check(cudaMemcpyAsync(in, data + at, bytes, cudaMemcpyDeviceToHost, s), "bringing a sum to the host");
			call(s, CH_HOST_ALL_REDUCE, in, nullptr, n);
			check(cudaMemcpyAsync(data + at, in, bytes, cudaMemcpyHostToDevice, s), "taking a sum back");
		}
		fence(s);
	}

	void all_gather(cudaStream_t s, const void *src, void *dst, int64_t bytes) override {
		for (int64_t at = 0; at < bytes; at += kStage) {
			const int64_t n = std::min(kStage, bytes - at);
			check(cudaMemcpyAsync(in, static_cast<const char *>(src) + at, n, cudaMemcpyDeviceToHost, s), "bringing a part to the host");
			call(s, CH_HOST_ALL_GATHER, out, in, n);
			check(cudaMemcpy2DAsync(static_cast<char *>(dst) + at, bytes, out, n, n, size, cudaMemcpyHostToDevice, s), "taking all parts back");
		}
		fence(s);
	}

private:
	struct Call {
		Host *host;
		int32_t operation;
		void *dst;
		const void *src;
		int64_t count;
	};

	static void CUDART_CB run(void *call) {
		const Call &c = *static_cast<const Call *>(call);
		c.host->function(c.host->token, c.operation, c.dst, c.src, c.count);
	}

	// call has the host do an operation; its arguments live as long as any graph.
	void call(cudaStream_t s, int32_t operation, void *dst, const void *src, int64_t count) {
		auto &c = calls[{operation, count}];
		if (!c) {
			c.reset(new Call{this, operation, dst, src, count});
		}
		check(cudaLaunchHostFunc(s, run, c.get()), "an operation of the host");
	}

	void fence(cudaStream_t s) {
		fence_kernel<<<1, 1, 0, s>>>();
		check(cudaGetLastError(), "launch");
	}

	const ch_host_function function;
	const uint64_t token;
	char *in = nullptr, *out = nullptr;
	std::map<std::pair<int32_t, int64_t>, std::unique_ptr<Call>> calls;
};

// Of one row: a best, a mass, a token drawn; and what was changed, of this rank.
constexpr int64_t kExchange = 32;

void join(ch_stream &s, const ch_group &g) {
	if (g.size < 1 || g.rank < 0 || g.rank >= g.size || (g.comm == nullptr && g.host == nullptr) || s.ranks) {
		fail(CH_INVALID, "a stream joins as rank %d of %d%s", g.rank, g.size, s.ranks ? " a second time" : "");
	}
	if (g.comm != nullptr && (g.comm->context != s.context || g.comm->nccl.rank != g.rank || g.comm->nccl.size != g.size)) {
		fail(CH_INVALID, "the communicator is rank %d of %d, or another context's", g.comm->nccl.rank, g.comm->nccl.size);
	}
	auto r = std::make_unique<Ranks>();
	if (g.comm != nullptr) {
		r->group = nccl_group(*g.comm, g.half != 0);
	} else {
		r->group = std::make_unique<Host>(g);
	}
	if (g.peers != nullptr) {
		if (g.peers->context != s.context || g.peers->rank != g.rank || g.peers->size != g.size) {
			fail(CH_INVALID, "the peers are of rank %d of %d, or another context's", g.peers->rank, g.peers->size);
		}
		r->group = with_peers(*g.peers, g.peer_sizes, g.half != 0, std::move(r->group));
	}
	r->max_rows = s.max_rows;
	check(cudaMalloc(&r->exchange, kExchange * s.max_rows * (g.size + 1)), "memory for a group");
	check(cudaMemset(r->exchange, 0, kExchange * s.max_rows * (g.size + 1)), "memory for a group");
	check(cudaMalloc(&r->packed, kRanksScratch / g.size), "memory for a group");
	check(cudaMalloc(&r->gathered, kRanksScratch), "memory for a group");
	check(cudaMalloc(&r->whole, kRanksScratch), "memory for a group");
	s.ranks = std::move(r);
}

} // namespace

std::unique_ptr<Group> nccl_group(ch_comm &m, bool half) { return std::make_unique<Nccl>(m, half); }

Ranks::~Ranks() {
	for (char *p : {exchange, packed, gathered, whole, results}) {
		cudaFree(p);
	}
}

void Ranks::grow_results(int32_t words) {
	cudaFree(results);
	results = nullptr;
	check(cudaMalloc(&results, static_cast<int64_t>(words) * 4 * group->size), "results of all ranks");
}

} // namespace chorale

CH_EXPORT int32_t ch_stream_join(ch_stream *s, const ch_group *group, ch_error *err) {
	using namespace chorale;
	return guarded(s ? s->context : nullptr, err, [&] { join(*s, *group); });
}
