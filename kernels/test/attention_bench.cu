// Times attention as a model of the Llama-3-8B shape runs it: 32 layers of one
// cache, pages in random order, the layers' launches in one graph.
//
//   attention_bench [GiB of cache]
//
// A line of JSON per step. floor_us is what its bytes take at the bandwidth that
// a copy had in the same process, tflops counts two operations per weight that a
// causal mask leaves.
#include <chrono>

#include "attention_case.cuh"

using namespace test;

namespace {

constexpr int kLayers = 32;

struct Pool {
	bf16 *data = nullptr;
	int64_t pages = 0, page_stride = 0;
};

__global__ void fill_pool(uint4 *dst, int64_t n) {
	for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
		uint32_t w[4];
		for (int k = 0; k < 4; k++) { // signs and mantissas at random, exponents of values near one
			w[k] = (mix(i * 4 + k + 1) & 0x80ff80ffu) | 0x3f003f00u;
		}
		dst[i] = make_uint4(w[0], w[1], w[2], w[3]);
	}
}

float time_graph(cudaGraphExec_t exec, cudaStream_t stream, int repeats) {
	cudaEvent_t begin, end;
	CUDA(cudaEventCreate(&begin));
	CUDA(cudaEventCreate(&end));
	std::vector<float> times;
	for (int i = 0; i < repeats + 2; i++) {
		CUDA(cudaEventRecord(begin, stream));
		CUDA(cudaGraphLaunch(exec, stream));
		CUDA(cudaEventRecord(end, stream));
		CUDA(cudaEventSynchronize(end));
		float ms;
		CUDA(cudaEventElapsedTime(&ms, begin, end));
		if (i >= 2) {
			times.push_back(ms * 1000);
		}
	}
	CUDA(cudaEventDestroy(begin));
	CUDA(cudaEventDestroy(end));
	std::sort(times.begin(), times.end());
	return times[times.size() / 2];
}

// copy_bandwidth is bytes read plus written per second.
double copy_bandwidth(const Pool &pool, cudaStream_t stream) {
	const int64_t bytes = int64_t{4} << 30;
	cudaEvent_t begin, end;
	CUDA(cudaEventCreate(&begin));
	CUDA(cudaEventCreate(&end));
	float best = INFINITY;
	for (int i = 0; i < 6; i++) {
		CUDA(cudaEventRecord(begin, stream));
		CUDA(cudaMemcpyAsync(pool.data + bytes / 2, pool.data, bytes, cudaMemcpyDeviceToDevice, stream));
		CUDA(cudaEventRecord(end, stream));
		CUDA(cudaEventSynchronize(end));
		float ms;
		CUDA(cudaEventElapsedTime(&ms, begin, end));
		best = std::min(best, ms);
	}
	return 2 * bytes / (best * 1e-3);
}

void bench(const char *label, AttentionShape shape, const std::vector<Seq> &seqs, bool deterministic, const Pool &pool, double bandwidth, cudaStream_t stream) {
	std::mt19937 rng(5);
	int64_t need = 0, positions = 0; // positions that are read
	double weights = 0;
	for (const Seq &s : seqs) {
		need += (s.ctx_len + shape.page_size - 1) / shape.page_size;
		const int window = shape.window > 0 ? shape.window : s.ctx_len;
		positions += std::min(s.ctx_len, window + s.q_len - 1);
		for (int t = 0; t < s.q_len; t++) {
			weights += std::min(window, s.ctx_len - s.q_len + t + 1);
		}
	}
	if (need > pool.pages) {
		return;
	}
	Case c(shape, seqs, 64 << 20, rng, 0, false, false);
	std::vector<int32_t> pages(pool.pages);
	for (size_t i = 0; i < pages.size(); i++) {
		pages[i] = static_cast<int32_t>(i);
	}
	std::shuffle(pages.begin(), pages.end(), rng);
	CUDA(cudaMemcpy(c.device_pages, pages.data(), need * 4, cudaMemcpyHostToDevice));
	std::vector<char> host;
	const auto t0 = std::chrono::steady_clock::now();
	for (int i = 0; i < 100; i++) {
		c.plan(deterministic, host);
	}
	const double plan_us = std::chrono::duration<double>(std::chrono::steady_clock::now() - t0).count() * 1e4;
	auto run = c.run(c.upload(deterministic));
	run.cache.page_stride = pool.page_stride;
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
	for (int layer = 0; layer < kLayers; layer++) {
		run.cache.keys = pool.data + layer * c.layer();
		run.cache.values = pool.data + layer * c.layer() + c.layer() / 2;
		launch(run, stream);
	}
	CUDA(cudaStreamEndCapture(stream, &graph));
	CUDA(cudaGraphInstantiate(&exec, graph, 0));
	const double us = time_graph(exec, stream, 10);
	CUDA(cudaGraphExecDestroy(exec));
	CUDA(cudaGraphDestroy(graph));
	const double bytes = kLayers * 2.0 * (2.0 * positions * shape.kv_heads * shape.head_dim + 2.0 * c.total * shape.heads * shape.head_dim);
	const double flops = kLayers * 4.0 * weights * shape.heads * shape.head_dim;
	printf("{\"step\": \"%s\", \"deterministic\": %s, \"sequences\": %zu, \"rows\": %d, \"positions\": %lld, \"us\": %.1f, \"bytes\": %.0f, \"floor_us\": %.1f, \"share_of_copy\": %.3f, "
		"\"us_per_position\": %.4f, \"tflops\": %.1f, \"plan_us\": %.1f}\n",
		label, deterministic ? "true" : "false", seqs.size(), c.total, static_cast<long long>(positions), us, bytes, bytes / bandwidth * 1e6, bytes / (us * 1e-6) / bandwidth,
		us / positions, flops / us * 1e-6, plan_us);
	fflush(stdout);
}

} // namespace

int main(int argc, char **argv) {
	const AttentionShape llama = {32, 8, 128, 16, 0};
	Pool pool;
	pool.page_stride = int64_t{kLayers} * 2 * llama.page_size * llama.kv_heads * llama.head_dim;
	pool.pages = (int64_t{argc > 1 ? atoi(argv[1]) : 36} << 30) / (pool.page_stride * 2);
	const int64_t bytes = pool.pages * pool.page_stride * 2;
	CUDA(cudaMalloc(&pool.data, bytes));
	fill_pool<<<2048, 256>>>(reinterpret_cast<uint4 *>(pool.data), bytes / 16);
	CUDA(cudaDeviceSynchronize());
	cudaStream_t stream;
	CUDA(cudaStreamCreate(&stream));
	cudaDeviceProp prop;
	CUDA(cudaGetDeviceProperties(&prop, 0));
	const double bandwidth = copy_bandwidth(pool, stream);
	printf("{\"device\": \"%s\", \"copy_bytes_per_s\": %.4g}\n", prop.name, bandwidth);

	const auto decode = [](int n, int ctx) { return std::vector<Seq>(n, {1, ctx}); };
	std::mt19937 rng(3);
	std::vector<Seq> ragged;
	for (int i = 0; i < 128; i++) {
		ragged.push_back({1, 64 + static_cast<int>(rng() % 3000)});
	}
	for (int deterministic = 0; deterministic < 2; deterministic++) {
		for (const auto &[n, ctx] : {std::pair(1, 512), {1, 8192}, {8, 2048}, {64, 512}, {64, 4096}, {32, 8192}, {256, 512}, {256, 1024}}) {
			bench("decode", llama, decode(n, ctx), deterministic, pool, bandwidth, stream);
		}
		bench("decode, 64..3063 positions", llama, ragged, deterministic, pool, bandwidth, stream);
		AttentionShape windowed = llama;
		windowed.window = 1024;
		bench("decode, window 1024", windowed, decode(64, 4096), deterministic, pool, bandwidth, stream);
		bench("prefill", llama, {{2048, 2048}}, deterministic, pool, bandwidth, stream);
		bench("prefill", llama, {{8192, 8192}}, deterministic, pool, bandwidth, stream);
		bench("prefill", llama, {{512, 8192}}, deterministic, pool, bandwidth, stream);
		bench("prefill", llama, std::vector<Seq>(16, {512, 512}), deterministic, pool, bandwidth, stream);
		std::vector<Seq> mixed = decode(63, 1024);
		mixed.push_back({512, 2048});
		bench("63 decode rows and a chunk of 512", llama, mixed, deterministic, pool, bandwidth, stream);
	}
	return 0;
}
