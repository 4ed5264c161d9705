// Groups of GPUs that see each other's memory.
#include "peer.h"

#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "stream.h"

namespace chorale {

namespace {

static_assert(sizeof(cudaIpcMemHandle_t) == CH_PEER_HANDLE_BYTES && peer::kBytes == CH_PEER_BYTES);

class Peers final : public Group {
public:
	Peers(ch_peers &p, uint64_t sizes, bool half, std::unique_ptr<Group> rest) : Group(p.rank, p.size), p(p), sizes(sizes), half(half), rest(std::move(rest)) {}

	void all_reduce(cudaStream_t s, float *data, int64_t count) override {
		const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
		if (!takes(bytes)) {
			rest->all_reduce(s, data, count);
			return;
		}
		run(s, data, data, bytes, true);
	}

	void all_gather(cudaStream_t s, const void *src, void *dst, int64_t bytes) override {
		if (!takes(bytes)) {
			rest->all_gather(s, src, dst, bytes);
			return;
		}
		run(s, src, dst, bytes, false);
	}

private:
	// takes tells whether a message goes this way: by its size, rounded up to a
	// power of two.
	bool takes(int64_t bytes) const {
		int n = 0;
		while ((int64_t{1} << n) < bytes) {
			n++;
		}
		return bytes > 0 && bytes % 4 == 0 && bytes <= peer::kBytes && (sizes >> n & 1) != 0;
	}

	peer::Mode mode_of(const peer::Args &a) const {
		if (a.bytes <= peer::kShort) {
			return peer::kBrief;
		}
		const bool wide = (a.bytes | static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.src)) | static_cast<int64_t>(reinterpret_cast<uintptr_t>(a.dst))) % 16 == 0;
		return !wide ? peer::kPlain : a.sum && half ? peer::kHalf : peer::kWide;
	}

	void run(cudaStream_t s, const void *src, void *dst, int64_t bytes, bool sum) {
		peer::Args a = {};
		std::copy(p.memory, p.memory + p.size, a.memory);
		a.rank = p.rank, a.ranks = p.size, a.done = p.done, a.over = p.over;
		a.src = static_cast<const char *>(src), a.dst = static_cast<char *>(dst), a.bytes = bytes, a.sum = sum;
		a.mode = mode_of(a);
		cudaLaunchAttribute attribute = {};
		attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
		attribute.val.programmaticStreamSerializationAllowed = 1;
		cudaLaunchConfig_t config = {};
		config.gridDim = peer::kBlocks, config.blockDim = peer::kThreads;
		config.stream = s, config.attrs = &attribute, config.numAttrs = p.context->info.major >= 9 ? 1 : 0;
		check(cudaLaunchKernelEx(&config, peer::peer_kernel, a), "launch");
	}

	ch_peers &p;
	const uint64_t sizes;
	const bool half;
	const std::unique_ptr<Group> rest;
};

void close_peers(ch_peers &p) {
	for (int r = 0; r < p.size; r++) {
		if (p.memory[r] != nullptr && r != p.rank) {
			cudaIpcCloseMemHandle(p.memory[r]);
		}
	}
	cudaFree(p.memory[p.rank]);
	cudaFree(p.done);
	cudaFreeHost(p.over);
}

void open_peers(ch_peers &p, void *handle) {
	const size_t bytes = peer::memory_bytes(p.size), counts = sizeof(uint32_t) * peer::kBlocks;
	check(cudaMalloc(&p.memory[p.rank], bytes), "memory for peers");
	check(cudaMemset(p.memory[p.rank], 0, bytes), "memory for peers");
	check(cudaMalloc(&p.done, counts), "memory for peers");
	check(cudaMemset(p.done, 0, counts), "memory for peers");
	check(cudaHostAlloc(reinterpret_cast<void **>(&p.over), sizeof(uint32_t), cudaHostAllocMapped), "pinned memory for peers");
	*p.over = 0;
	check(cudaDeviceSynchronize(), "memory for peers");
	cudaIpcMemHandle_t mine;
	const cudaError_t e = cudaIpcGetMemHandle(&mine, p.memory[p.rank]);
	if (e != cudaSuccess) {
		cudaGetLastError();
		fail(CH_UNSUPPORTED, "memory cannot be shared with other processes: %s", cudaGetErrorString(e));
	}
	memcpy(handle, &mine, sizeof mine);
}

void connect(ch_peers &p, const char *handles) {
	for (int r = 0; r < p.size; r++) {
		if (r == p.rank) {
			continue;
		}
		cudaIpcMemHandle_t theirs;
		memcpy(&theirs, handles + r * sizeof theirs, sizeof theirs);
		void *at = nullptr;
		const cudaError_t e = cudaIpcOpenMemHandle(&at, theirs, cudaIpcMemLazyEnablePeerAccess);
		if (e != cudaSuccess) {
			cudaGetLastError();
			fail(CH_UNSUPPORTED, "the memory of rank %d cannot be reached: %s", r, cudaGetErrorString(e));
		}
		p.memory[r] = static_cast<char *>(at);
	}
}

// idle waits for a stream whose kernels may wait for writes that never come, and
// frees them then: false.
bool idle(cudaStream_t s, ch_peers &p) {
	const auto start = std::chrono::steady_clock::now();
	cudaError_t e = cudaSuccess;
	bool lives = true;
	while ((e = cudaStreamQuery(s)) == cudaErrorNotReady) {
		if (lives && std::chrono::steady_clock::now() - start > std::chrono::seconds(2)) {
			*static_cast<volatile uint32_t *>(p.over) = 1;
			lives = false;
		}
		std::this_thread::sleep_for(std::chrono::microseconds(50));
	}
	check(e, "trying peers");
	return lives && *p.over == 0;
}

// Timer measures what is recorded as a graph, between events.
struct Timer {
	cudaStream_t stream = nullptr;
	cudaEvent_t begin = nullptr, end = nullptr;
	cudaGraph_t graph = nullptr;
	cudaGraphExec_t exec = nullptr;

	Timer() {
		check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
		check(cudaEventCreate(&begin), "event");
		check(cudaEventCreate(&end), "event");
	}
	~Timer() {
		drop();
		cudaEventDestroy(begin);
		cudaEventDestroy(end);
		cudaStreamDestroy(stream);
	}
	void drop() {
		if (exec != nullptr) {
			cudaGraphExecDestroy(exec);
		}
		if (graph != nullptr) {
			cudaGraphDestroy(graph);
		}
		exec = nullptr, graph = nullptr;
	}

	// measure gives the microseconds of one of many sums in a row; -1 when those of
	// peers, which are null for NCCL, do not come.
	float measure(Group &g, ch_peers *p, float *data, int64_t count) {
		constexpr int kTimes = 20;
		g.all_reduce(stream, data, count); // the first of a size is eager
		check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording");
		for (int i = 0; i < kTimes; i++) {
			g.all_reduce(stream, data, count);
		}
		check(cudaStreamEndCapture(stream, &graph), "recording");
		check(cudaGraphInstantiate(&exec, graph, 0), "recording");
		float best = INFINITY;
		for (int i = 0; i < 4; i++) {
			check(cudaEventRecord(begin, stream), "event");
			check(cudaGraphLaunch(exec, stream), "graph");
			check(cudaEventRecord(end, stream), "event");
			if (p != nullptr && !idle(stream, *p)) {
				best = -1;
				break;
			}
			check(cudaEventSynchronize(end), "measuring");
			float ms = 0;
			check(cudaEventElapsedTime(&ms, begin, end), "measuring");
			best = i == 0 ? best : std::min(best, ms * 1000 / kTimes);
		}
		drop();
		return best;
	}
};

// prove sums known numbers, as often on every rank, and tells whether all is right.
// There are machines on which one device's writes to another's memory get lost.
bool prove(Group &g, ch_peers &p, cudaStream_t s, float *data, int64_t count) {
	std::vector<float> host(count);
	bool right = true;
	for (int round = 0; round < 4; round++) {
		const auto value = [&](int64_t i, int rank) { return static_cast<float>((i * 31 + rank * 7 + round) % 64); }; // exact in bfloat16
		for (int64_t i = 0; i < count; i++) {
			host[i] = value(i, g.rank);
		}
		check(cudaMemcpyAsync(data, host.data(), count * sizeof(float), cudaMemcpyHostToDevice, s), "trying peers");
		g.all_reduce(s, data, count);
		if (!idle(s, p)) {
			return false;
		}
		check(cudaMemcpy(host.data(), data, count * sizeof(float), cudaMemcpyDeviceToHost), "trying peers");
		for (int64_t i = 0; i < count; i++) {
			float want = 0;
			for (int r = 0; r < g.size; r++) {
				want += value(i, r);
			}
			right &= host[i] == want;
		}
	}
	return right;
}

} // namespace

std::unique_ptr<Group> with_peers(ch_peers &p, uint64_t sizes, bool half, std::unique_ptr<Group> rest) { return std::make_unique<Peers>(p, sizes, half, std::move(rest)); }

} // namespace chorale

using namespace chorale;

CH_EXPORT int32_t ch_peers_open(ch_context *c, int32_t rank, int32_t size, void *handle, ch_peers **out, ch_error *err) {
	auto p = std::make_unique<ch_peers>();
	const int32_t status = guarded(c, err, [&] {
		if (size < 1 || rank < 0 || rank >= size) {
			fail(CH_INVALID, "rank %d of %d", rank, size);
		}
		if (size > peer::kRanks) {
			fail(CH_UNSUPPORTED, "%d ranks, at most %d see each other's memory", size, peer::kRanks);
		}
		p->context = c, p->rank = rank, p->size = size;
		open_peers(*p, handle);
	});
	if (status == CH_OK) {
		*out = p.release();
	} else if (p->context != nullptr) {
		close_peers(*p);
	}
	return status;
}

CH_EXPORT int32_t ch_peers_connect(ch_peers *p, const void *handles, ch_error *err) {
	return guarded(p ? p->context : nullptr, err, [&] { connect(*p, static_cast<const char *>(handles)); });
}

CH_EXPORT int32_t ch_peers_measure(ch_peers *p, ch_comm *m, int32_t half, int32_t count, const int64_t *bytes, float *by_peers, float *by_nccl, ch_error *err) {
	return guarded(p ? p->context : nullptr, err, [&] {
		Timer t;
		float *data = nullptr;
		check(cudaMalloc(&data, peer::kBytes), "memory for measuring");
		const std::unique_ptr<float, cudaError_t (*)(void *)> owner(data, [](void *d) { return cudaFree(d); });
		check(cudaMemset(data, 0, peer::kBytes), "memory for measuring");
		check(cudaDeviceSynchronize(), "memory for measuring");
		const volatile uint32_t *over = p->over;
		const auto nccl = nccl_group(*m, half != 0);
		const auto peers = with_peers(*p, ~uint64_t{0}, half != 0, nullptr);
		for (int32_t i = 0; i < count; i++) {
			if (bytes[i] < 4 || bytes[i] > peer::kBytes) {
				fail(CH_INVALID, "measuring messages of %lld bytes", static_cast<long long>(bytes[i]));
			}
			by_nccl[i] = t.measure(*nccl, nullptr, data, bytes[i] / 4);
			// A rank that finds sums wrong goes on with those that do not, or they
			// would wait for it.
			const bool right = *over == 0 && prove(*peers, *p, t.stream, data, bytes[i] / 4);
			const float took = *over == 0 ? t.measure(*peers, p, data, bytes[i] / 4) : -1;
			by_peers[i] = right ? took : -1;
		}
	});
}

// Also when the context is lost.
CH_EXPORT int32_t ch_peers_abort(ch_peers *p, ch_error *) {
	if (p != nullptr && p->over != nullptr) {
		*static_cast<volatile uint32_t *>(p->over) = 1;
	}
	return CH_OK;
}

CH_EXPORT int32_t ch_peers_close(ch_peers *p, ch_error *) {
	if (p != nullptr) {
		cudaSetDevice(p->context->device);
		close_peers(*p);
		delete p;
	}
	return CH_OK;
}
