// Times the LoRA of all linear layers of a Llama-3-8B shape (32 layers with
// their own weights, so the cache does not flatter), as replays of CUDA graphs.
//
//	nvcc -std=c++17 -O3 -arch=sm_90 -Ikernels/device kernels/test/lora_bench.cu -lcublas -o lora_bench
//	lora_bench [result.json] [seconds]
//
// serial: shrink and expand one after another, nothing else in the graph; early:
// with early start; fused: also with the fused activation, less the plain one.
// side, front: graph of the base GEMMs and activations with LoRA, less the graph
// without; shrink on a branch beside the GEMM, or in front of it. floor: bytes
// of the adapters over the read bandwidth of this run.
#include "lora.cuh"

#include <cublas_v2.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

using namespace chorale::lora;

#define CHECK(call)                                                                   \
	do {                                                                              \
		const auto code = (call);                                                        \
		if (code != 0) {                                                                \
			fprintf(stderr, "%s:%d %s: %d\n", __FILE__, __LINE__, #call, static_cast<int>(code)); \
			exit(1);                                                                  \
		}                                                                             \
	} while (0)

namespace {

constexpr int kLayers = 32, kMaxRows = 2048, kSites = 4;
constexpr size_t kPoolBytes = size_t{23} << 30;

struct Site {
	const char *name;
	int in, out;
	std::vector<int> parts;
};
const Site sites[kSites] = {
    {"qkv", 4096, 6144, {4096, 1024, 1024}},
    {"o", 4096, 4096, {4096}},
    {"gate_up", 4096, 28672, {14336, 14336}},
    {"down", 14336, 4096, {4096}},
};

__global__ void fill(bf16 *p, size_t n, uint32_t seed, float scale) {
	for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n; i += size_t{gridDim.x} * blockDim.x) {
		uint32_t h = static_cast<uint32_t>(i) * 2654435761u ^ static_cast<uint32_t>(i >> 32) ^ seed;
		h = (h ^ h >> 15) * 2246822519u;
		h = (h ^ h >> 13) * 3266489917u;
		p[i] = __float2bfloat16_rn(scale * (static_cast<int32_t>(h ^ h >> 16) * 4.656612873e-10f));
	}
}

__global__ void __launch_bounds__(512) read_all(const uint4 *p, size_t n, uint32_t *out) {
	uint32_t sum = 0;
	const size_t stride = size_t{gridDim.x} * blockDim.x;
	for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i + 3 * stride < n; i += 4 * stride) {
		const uint4 a = __ldcs(p + i), b = __ldcs(p + i + stride), c = __ldcs(p + i + 2 * stride), d = __ldcs(p + i + 3 * stride);
		sum += a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
	}
	if (sum == 0x12345678) {
		*out = sum;
	}
}

char *device_bytes(size_t n) {
	void *p;
	CHECK(cudaMalloc(&p, n));
	return static_cast<char *>(p);
}

bf16 *random_bf16(size_t n, uint32_t seed, float scale) {
	bf16 *p = reinterpret_cast<bf16 *>(device_bytes(n * 2));
	fill<<<132 * 8, 256>>>(p, n, seed, scale);
	CHECK(cudaGetLastError());
	return p;
}

// Bench owns everything that is allocated once.
struct Bench {
	bf16 *pool, *weights[kLayers][kSites], *x[kSites], *act;
	char *y[kSites], *scratch;
	ch_lora_term *terms; // [kLayers * kSites][kMaxTerms]
	int32_t *counts;
	cudaStream_t stream, side;
	cudaEvent_t begin, end, fork, join;
	cublasHandle_t blas;
	double bandwidth;
};
constexpr int kMaxTerms = 256;

void set_up(Bench *b) {
	b->pool = random_bf16(kPoolBytes / 2, 7, 0.02f);
	for (int l = 0; l < kLayers; l++) {
		for (int s = 0; s < kSites; s++) {
			b->weights[l][s] = random_bf16(static_cast<size_t>(sites[s].in) * sites[s].out, l * kSites + s, 0.02f);
		}
	}
	for (int s = 0; s < kSites; s++) {
		b->x[s] = random_bf16(static_cast<size_t>(kMaxRows) * sites[s].in, 100 + s, 1);
		b->y[s] = reinterpret_cast<char *>(random_bf16(static_cast<size_t>(kMaxRows) * sites[s].out, 200 + s, 1));
	}
	b->act = b->x[3];
	b->scratch = device_bytes(lora_scratch_bytes(kMaxRows, 64, 3, 128));
	b->terms = reinterpret_cast<ch_lora_term *>(device_bytes(sizeof(ch_lora_term) * kLayers * kSites * kMaxTerms));
	b->counts = reinterpret_cast<int32_t *>(device_bytes(sizeof(int32_t) * (kLayers * kSites + 1)));
	CHECK(cudaMemset(b->counts, 0, sizeof(int32_t) * (kLayers * kSites + 1)));
	CHECK(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
	CHECK(cudaStreamCreateWithFlags(&b->side, cudaStreamNonBlocking));
	for (cudaEvent_t *e : {&b->begin, &b->end}) {
		CHECK(cudaEventCreate(e));
	}
	for (cudaEvent_t *e : {&b->fork, &b->join}) {
		CHECK(cudaEventCreateWithFlags(e, cudaEventDisableTiming));
	}
	CHECK(cublasCreate(&b->blas));
	CHECK(cublasSetStream(b->blas, b->stream));
	CHECK(cublasSetWorkspace(b->blas, device_bytes(64 << 20), 64 << 20));
	CHECK(cudaDeviceSynchronize());
}

float elapsed(Bench &b, const std::function<void()> &work) {
	CHECK(cudaEventRecord(b.begin, b.stream));
	work();
	CHECK(cudaEventRecord(b.end, b.stream));
	CHECK(cudaEventSynchronize(b.end));
	float ms;
	CHECK(cudaEventElapsedTime(&ms, b.begin, b.end));
	return ms * 1000;
}

// median_us runs work until a time budget is used up, 7 times at least.
double median_us(Bench &b, const std::function<void()> &work) {
	std::vector<float> us;
	for (int i = 0; i < 3; i++) {
		elapsed(b, work);
	}
	double total = 0;
	while (us.size() < 7 || (total < 25e3 && us.size() < 30)) {
		us.push_back(elapsed(b, work));
		total += us.back();
	}
	std::nth_element(us.begin(), us.begin() + us.size() / 2, us.end());
	return us[us.size() / 2];
}

void measure_bandwidth(Bench *b) {
	const size_t n = size_t{8} << 30;
	const double us = median_us(*b, [&] { read_all<<<132 * 4, 512, 0, b->stream>>>(reinterpret_cast<const uint4 *>(b->pool), n / 16, reinterpret_cast<uint32_t *>(b->scratch)); });
	b->bandwidth = n / us * 1e6;
}

// Config is one batch: rows split evenly over adapters, ranks repeating.
struct Config {
	int rows, adapters;
	std::vector<int> ranks;
	std::string name;

	int rank(int d) const { return ranks[d % ranks.size()]; }
	int rank_sum() const {
		int sum = 0;
		for (int d = 0; d < adapters; d++) {
			sum += rank(d);
		}
		return sum;
	}
};

// upload_terms gives every layer its own factors from the pool.
void upload_terms(Bench &b, const Config &c) {
	size_t used = 0;
	const auto take = [&](size_t elements) {
		const bf16 *p = b.pool + used;
		used += (elements + 63) / 64 * 64;
		return p;
	};
	std::vector<ch_lora_term> all(kLayers * kSites * kMaxTerms);
	std::vector<int32_t> counts;
	for (int i = 0; i < kLayers * kSites; i++) {
		const Site &site = sites[i % kSites];
		int n = 0, s = 0;
		for (int d = 0; d < c.adapters; d++) {
			const int begin = static_cast<int64_t>(c.rows) * d / c.adapters, end = static_cast<int64_t>(c.rows) * (d + 1) / c.adapters;
			int col = 0;
			for (int out : site.parts) {
				const int r = c.rank(d);
				const bf16 *a = take(static_cast<size_t>(r) * site.in), *w = take(static_cast<size_t>(out) * ch_lora_ldb(r));
				all[i * kMaxTerms + n++] = {a, w, nullptr, begin, end - begin, r, out, col, s, 0.01f, 0};
				s += ch_lora_tiles(end - begin, r);
				col += out;
			}
		}
		counts.push_back(n);
	}
	if (used * 2 > kPoolBytes) {
		fprintf(stderr, "pool too small for %s\n", c.name.c_str());
		exit(1);
	}
	CHECK(cudaMemcpy(b.terms, all.data(), all.size() * sizeof(all[0]), cudaMemcpyHostToDevice));
	CHECK(cudaMemcpy(b.counts, counts.data(), counts.size() * sizeof(int32_t), cudaMemcpyHostToDevice));
}

// Mode says what goes into a graph.
struct Mode {
	bool gemm, act, shrink, expand, side, early;
	int only = -1;      // one site, or all
	bool empty = false; // no terms: what the launches alone cost
};

LoraLaunch launch_of(Bench &b, int rows, int layer, int s, bool early) {
	const int i = layer * kSites + s;
	LoraLaunch l{};
	l.terms = b.terms + i * kMaxTerms;
	l.count = b.counts + i;
	l.max_terms = kMaxTerms;
	l.rows = rows;
	l.x = b.x[s];
	l.ldx = l.in = sites[s].in;
	l.y = b.y[s];
	l.ldy = sites[s].out;
	l.scratch = b.scratch;
	l.early = early;
	return l;
}

void gemm(Bench &b, int rows, int layer, int s) {
	const float one = 1, zero = 0;
	const Site &t = sites[s];
	CHECK(cublasGemmEx(b.blas, CUBLAS_OP_T, CUBLAS_OP_N, t.out, rows, t.in, &one, b.weights[layer][s], CUDA_R_16BF, t.in, b.x[s], CUDA_R_16BF, t.in, &zero, b.y[s],
	                   CUDA_R_16BF, t.out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

// record puts one linear layer into the graph. shrink runs before the GEMM or on
// a branch beside it; the activation is the fused one where adapters are.
void record(Bench &b, const Mode &m, int rows, int layer, int s) {
	LoraLaunch l = launch_of(b, rows, layer, s, m.early);
	if (m.empty) {
		l.count = b.counts + kLayers * kSites;
	}
	if (m.shrink && m.side) {
		l.early = false;
		CHECK(cudaEventRecord(b.fork, b.stream));
		CHECK(cudaStreamWaitEvent(b.side, b.fork, 0));
		CHECK(lora_shrink(l, b.side));
		CHECK(cudaEventRecord(b.join, b.side));
	} else if (m.shrink) {
		CHECK(lora_shrink(l, b.stream));
	}
	if (m.gemm) {
		gemm(b, rows, layer, s);
	}
	if (m.shrink && m.side) {
		CHECK(cudaStreamWaitEvent(b.stream, b.join, 0));
	}
	if (m.act && s == 2) {
		if (!m.expand) {
			l.count = b.counts + kLayers * kSites; // zero: the plain activation
		}
		CHECK(lora_expand_silu(l, b.act, 14336, 14336, b.stream));
	} else if (m.expand) {
		CHECK(lora_expand(l, b.stream));
	}
}

double graph_us(Bench &b, const Mode &m, int rows) {
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	CHECK(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal));
	for (int layer = 0; layer < kLayers; layer++) {
		for (int s = 0; s < kSites; s++) {
			if (m.only < 0 || m.only == s) {
				record(b, m, rows, layer, s);
			}
		}
	}
	CHECK(cudaStreamEndCapture(b.stream, &graph));
	CHECK(cudaGraphInstantiate(&exec, graph, 0));
	const double us = median_us(b, [&] { CHECK(cudaGraphLaunch(exec, b.stream)); });
	CHECK(cudaGraphExecDestroy(exec));
	CHECK(cudaGraphDestroy(graph));
	return us;
}

struct Result {
	double floor, serial, early, fused, base, side, front;
	double shrink[kSites], expand[kSites], silu; // us per kernel, early start
};

Result measure(Bench &b, const Config &c) {
	//            gemm   act    shrink expand side   early
	upload_terms(b, c);
	Result r{};
	r.floor = c.rank_sum() * 2621440.0 * 2 / b.bandwidth * 1e6;
	r.serial = graph_us(b, {false, false, true, true, false, false}, c.rows);
	r.early = graph_us(b, {false, false, true, true, false, true}, c.rows);
	const double act = graph_us(b, {false, true, false, false, false, true, 2}, c.rows);
	r.fused = graph_us(b, {false, true, true, true, false, true}, c.rows) - act;
	r.base = graph_us(b, {true, true, false, false, false, false}, c.rows);
	r.side = graph_us(b, {true, true, true, true, true, false}, c.rows) - r.base;
	r.front = graph_us(b, {true, true, true, true, false, true}, c.rows) - r.base;
	for (int s = 0; s < kSites; s++) {
		r.shrink[s] = graph_us(b, {false, false, true, false, false, true, s}, c.rows) / kLayers;
		r.expand[s] = graph_us(b, {false, false, false, true, false, true, s}, c.rows) / kLayers;
	}
	r.silu = (graph_us(b, {false, true, false, true, false, true, 2}, c.rows) - act) / kLayers;
	return r;
}

std::vector<Config> configs() {
	std::vector<Config> all;
	const std::vector<std::pair<std::string, std::vector<int>>> kinds = {{"r16", {16}}, {"r64", {64}}, {"r4-128", {4, 8, 16, 32, 64, 128}}};
	for (int rows : {64, 1, 8, 256}) {
		for (int adapters : {1, 8, 32, 64}) {
			for (const auto &kind : kinds) {
				if (adapters <= rows && !(adapters == 1 && kind.second.size() > 1)) {
					all.push_back({rows, adapters, kind.second, kind.first});
				}
			}
		}
	}
	for (int adapters : {1, 8}) {
		all.push_back({2048, adapters, {16}, "r16"});
		all.push_back({2048, adapters, {64}, "r64"});
	}
	return all;
}

} // namespace

int main(int argc, char **argv) {
	static Bench b;
	const double limit = argc > 2 ? atof(argv[2]) : 1e9;
	const auto start = std::chrono::steady_clock::now();
	set_up(&b);
	measure_bandwidth(&b);
	cudaDeviceProp prop;
	CHECK(cudaGetDeviceProperties(&prop, 0));
	printf("%s, read bandwidth %.3f TB/s; us per set of 32 layers\n", prop.name, b.bandwidth / 1e12);
	printf("%5s %4s %7s %6s | %6s %6s %6s | %6s %6s %6s | %5s %5s | shrink: qkv o gate_up down | expand, fused gate_up\n", "rows", "D", "rank", "floor", "serial", "early", "fused", "base", "side", "front", "x", "%");
	for (int rows : {1, 64, 256}) {
		printf("rows %d without terms: shrink + expand %.0f, early %.0f\n", rows, graph_us(b, {false, false, true, true, false, false, -1, true}, rows),
		       graph_us(b, {false, false, true, true, false, true, -1, true}, rows));
	}
	std::string json = "{\"device\": \"" + std::string(prop.name) + "\", \"read_tb_s\": " + std::to_string(b.bandwidth / 1e12) + ", \"layers\": 32, \"results\": [";
	bool first = true;
	for (const Config &c : configs()) {
		if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > limit) {
			printf("stopped by the time limit\n");
			break;
		}
		const Result r = measure(b, c);
		const double added = std::min(r.side, r.front);
		printf("%5d %4d %7s %6.0f | %6.0f %6.0f %6.0f | %6.0f %6.0f %6.0f | %5.2f %5.1f | %.1f %.1f %.1f %.1f | %.1f %.1f %.1f %.1f, %.1f\n", c.rows, c.adapters, c.name.c_str(), r.floor, r.serial, r.early,
		       r.fused, r.base, r.side, r.front, added / r.floor, added / r.base * 100, r.shrink[0], r.shrink[1], r.shrink[2], r.shrink[3], r.expand[0], r.expand[1], r.expand[2], r.expand[3], r.silu);
		char line[512];
		snprintf(line, sizeof line,
		         "%s\n{\"rows\": %d, \"adapters\": %d, \"rank\": \"%s\", \"rank_sum\": %d, \"floor_us\": %.1f, \"serial_us\": %.1f, \"serial_early_us\": %.1f, \"serial_fused_us\": %.1f, "
		         "\"base_us\": %.1f, \"added_side_us\": %.1f, \"added_front_us\": %.1f}",
		         first ? "" : ",", c.rows, c.adapters, c.name.c_str(), c.rank_sum(), r.floor, r.serial, r.early, r.fused, r.base, r.side, r.front);
		json += line;
		first = false;
	}
	json += "\n]}\n";
	if (argc > 1) {
		FILE *f = fopen(argv[1], "w");
		if (!f || fputs(json.c_str(), f) < 0 || fclose(f) != 0) {
			fprintf(stderr, "cannot write %s\n", argv[1]);
			return 1;
		}
	}
	return 0;
}
