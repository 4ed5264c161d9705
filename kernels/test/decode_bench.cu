// Times products of decode rows at the shapes of Llama-3-8B (32 layers with their
// own weights, so the cache does not flatter), as replays of CUDA graphs.
//
//	nvcc -std=c++17 -O3 -arch=sm_90 -Ikernels/include -Ikernels/device -Ikernels/abi kernels/test/decode_bench.cu kernels/abi/product.cu kernels/abi/cublaslt.cu -ldl -o decode_bench
//	decode_bench [sweep | adapters | all]
//
// sweep: every way to cut each product into blocks, alone. adapters: a chain of
// all products with small kernels between them, by cuBLASLt with shrink and
// expand as launches of their own, and by the kernel that has them inside.
#include "decode_launch.cuh"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "context.h"

using namespace chorale::decode;
namespace lora = chorale::lora;

int32_t ch_abi_version() { return 0; }

#define CHECK(call)                                                                   \
	do {                                                                              \
		const auto code = (call);                                                        \
		if (code != 0) {                                                                \
			fprintf(stderr, "%s:%d %s: %d\n", __FILE__, __LINE__, #call, static_cast<int>(code)); \
			exit(1);                                                                  \
		}                                                                             \
	} while (0)

namespace {

constexpr int kLayers = 32, kSites = 4, kMaxTerms = 256;
constexpr size_t kPoolBytes = size_t{23} << 30;

struct Site {
	const char *name;
	int in, out;
	bool wide;
	std::vector<int> parts;
};
const Site sites[kSites] = {
    {"qkv", 4096, 6144, false, {4096, 1024, 1024}},
    {"o", 4096, 4096, false, {4096}},
    {"gate_up", 4096, 28672, false, {14336, 14336}},
    {"down", 14336, 4096, false, {4096}},
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

// small_kernel stands for a norm or an activation: a block a row.
__global__ void small_kernel(const uint4 *from, uint4 *to, int chunks) {
	lora::let_next_begin();
	lora::wait_for_previous();
	for (int i = threadIdx.x; i < chunks; i += blockDim.x) {
		uint4 v = from[blockIdx.x * static_cast<int64_t>(chunks) + i];
		v.x ^= 1;
		to[blockIdx.x * static_cast<int64_t>(chunks) + i] = v;
	}
}

struct Bench {
	bf16 *pool, *weights[kLayers][kSites], *x[kSites];
	char *y[kSites], *scratch, *workspace, *spare;
	Counters *counters;
	ch_lora_term *terms; // [kLayers * kSites][kMaxTerms]
	int32_t *counts;
	cudaStream_t stream;
	cudaEvent_t begin, end;
	chorale::Products *products;
	double bandwidth;
};

template <class T> T *device_bytes(size_t n) {
	void *p;
	CHECK(cudaMalloc(&p, n));
	return static_cast<T *>(p);
}

bf16 *random_bf16(size_t n, uint32_t seed, float scale) {
	bf16 *p = device_bytes<bf16>(n * 2);
	fill<<<132 * 8, 256>>>(p, n, seed, scale);
	CHECK(cudaGetLastError());
	return p;
}

void set_up(Bench *b) {
	b->pool = random_bf16(kPoolBytes / 2, 7, 0.02f);
	for (int l = 0; l < kLayers; l++) {
		for (int s = 0; s < kSites; s++) {
			b->weights[l][s] = random_bf16(static_cast<size_t>(sites[s].in) * sites[s].out, l * kSites + s, 0.02f);
		}
	}
	for (int s = 0; s < kSites; s++) {
		b->x[s] = random_bf16(static_cast<size_t>(kMostRows) * sites[s].in, 100 + s, 1);
		b->y[s] = device_bytes<char>(static_cast<size_t>(kMostRows) * sites[s].out * 4);
	}
	b->spare = device_bytes<char>(16 << 20);
	b->scratch = device_bytes<char>(256 << 20);
	b->workspace = device_bytes<char>(chorale::kProductWorkspace);
	b->counters = device_bytes<Counters>(sizeof(Counters));
	CHECK(cudaMemset(b->counters, 0, sizeof(Counters)));
	b->terms = device_bytes<ch_lora_term>(sizeof(ch_lora_term) * kLayers * kSites * kMaxTerms);
	b->counts = device_bytes<int32_t>(sizeof(int32_t) * kLayers * kSites);
	CHECK(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
	CHECK(cudaEventCreate(&b->begin));
	CHECK(cudaEventCreate(&b->end));
	b->products = new chorale::Products(chorale::cublaslt::open(nullptr), {false, true, ""});
	CHECK(cudaDeviceSynchronize());
}

double median_us(Bench &b, const std::function<void()> &work, int least, int most) {
	std::vector<float> us;
	double total = 0;
	for (int i = 0; i < most + 2 && (i < least + 2 || total < 20e3); i++) {
		CHECK(cudaEventRecord(b.begin, b.stream));
		work();
		CHECK(cudaEventRecord(b.end, b.stream));
		CHECK(cudaEventSynchronize(b.end));
		float ms;
		CHECK(cudaEventElapsedTime(&ms, b.begin, b.end));
		if (i >= 2) {
			us.push_back(ms * 1000);
			total += us.back();
		}
	}
	std::nth_element(us.begin(), us.begin() + us.size() / 2, us.end());
	return us[us.size() / 2];
}

// graph_us records what f launches for every layer and times a replay.
double graph_us(Bench &b, const std::function<bool(int)> &f) {
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	CHECK(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal));
	bool ok = true;
	for (int layer = 0; layer < kLayers && ok; layer++) {
		ok = f(layer);
	}
	const cudaError_t e = cudaStreamEndCapture(b.stream, &graph);
	if (!ok || e != cudaSuccess) {
		cudaGetLastError();
		return -1;
	}
	CHECK(cudaGraphInstantiate(&exec, graph, 0));
	const double us = median_us(b, [&] { CHECK(cudaGraphLaunch(exec, b.stream)); }, 7, 30);
	CHECK(cudaGraphExecDestroy(exec));
	CHECK(cudaGraphDestroy(graph));
	return us;
}

DecodeArgs args_of(Bench &b, int rows, int layer, int s, bool adapters) {
	DecodeArgs a{};
	a.x = b.x[s], a.w = b.weights[layer][s], a.y = b.y[s];
	a.ldx = a.in = sites[s].in, a.out = a.ldy = sites[s].out, a.rows = rows;
	a.workspace = b.workspace, a.counters = b.counters, a.scratch = b.scratch;
	if (adapters) {
		a.terms = b.terms + (layer * kSites + s) * kMaxTerms, a.count = b.counts + layer * kSites + s, a.max_terms = kMaxTerms;
	}
	return a;
}

bool early = true; // whether our kernel may begin while the launch before runs

using Launch = std::function<cudaError_t(const DecodeArgs &, const Cut &, cudaStream_t)>;

// Variant is a shape of the kernel, ready to be launched with any cut.
struct Variant {
	std::string name;
	int tiles, stages, depth;
	Launch launch;
	std::function<int64_t(const Cut &, bool adapters)> resident; // blocks
	std::function<bool(int out, int in, const Cut &, bool adapters)> serves;
};

template <class S> Variant variant() {
	Variant v;
	v.name = std::to_string(S::kStages) + "x" + std::to_string(S::kDepth);
	v.tiles = S::kTiles, v.stages = S::kStages, v.depth = S::kDepth;
	v.launch = [](const DecodeArgs &a, const Cut &cut, cudaStream_t stream) {
		return launch_product<S, bf16>(a, cut, early, stream);
	};
	v.resident = [](const Cut &cut, bool adapters) { return resident_blocks<S, bf16>(cut, adapters ? kMaxTerms : 0, 132); };
	v.serves = serves<S>;
	return v;
}

std::vector<Variant> variants(int rows) {
	if (rows <= 8) {
		return {variant<Shape<1, 4, 64>>()};
	}
	return {variant<Shape<8, 3, 64>>(), variant<Shape<8, 4, 64>>(), variant<Shape<8, 5, 64>>()};
}

struct Choice {
	const Variant *variant;
	Cut cut;
	double us;
};

double library_us(Bench &b, int rows, int s) {
	const auto run = [&](int layer) {
		b.products->run(b.stream, {rows, sites[s].out, sites[s].in, sites[s].wide, false}, {b.x[s], b.weights[layer][s], nullptr, b.y[s], b.workspace});
		return true;
	};
	run(0);
	return graph_us(b, run) / kLayers;
}

// sweep times every cut of a product and gives the choices, fastest first.
std::vector<Choice> sweep(Bench &b, const std::vector<Variant> &all, int rows, int s) {
	std::vector<Choice> found;
	for (const Variant &v : all) {
		for (int warps = 3; warps <= kMostWarps; warps++) {
			for (int split = 1; split <= 8; split++) {
				for (int cluster = split > 1; cluster >= 0; cluster--) {
					const Cut cut = {warps, split, cluster != 0};
					const int64_t blocks = blocks_of(sites[s].out, cut);
					if (blocks < 88 || blocks > 264 || (split > 1 && !cluster && blocks != 128)) {
						continue;
					}
					const int64_t resident = v.resident(cut, true);
					if (blocks > resident || !v.serves(sites[s].out, sites[s].in, cut, true)) {
						continue;
					}
					const double us = graph_us(b, [&](int layer) { return v.launch(args_of(b, rows, layer, s, false), cut, b.stream) == cudaSuccess; }) / kLayers;
					if (us > 0) {
						found.push_back({&v, cut, us});
					}
				}
			}
		}
	}
	std::sort(found.begin(), found.end(), [](const Choice &a, const Choice &b) { return a.us < b.us; });
	return found;
}

double product_us(Bench &b, const Choice &c, int rows, int s, bool adapters) {
	return graph_us(b, [&](int layer) { return c.variant->launch(args_of(b, rows, layer, s, adapters), c.cut, b.stream) == cudaSuccess; }) / kLayers;
}

void print(const Choice &c, int s) {
	const int64_t blocks = blocks_of(sites[s].out, c.cut);
	printf("   %-6s warps %d split %d%s blocks %3d: %6.2f us\n", c.variant->name.c_str(), c.cut.warps, c.cut.split, c.cut.cluster ? "c" : " ", static_cast<int>(blocks), c.us);
}

// Config is one batch: rows split evenly over adapters, ranks repeating.
struct Config {
	int rows, adapters;
	std::vector<int> ranks;
	std::string name;
	int rank(int d) const { return ranks[d % ranks.size()]; }
};

double upload_terms(Bench &b, const Config &c) {
	size_t used = 0;
	double bytes = 0;
	const auto take = [&](size_t elements) {
		const bf16 *p = b.pool + used;
		used += (elements + 63) / 64 * 64;
		bytes += elements * 2;
		return p;
	};
	std::vector<ch_lora_term> all(kLayers * kSites * kMaxTerms);
	std::vector<int32_t> counts;
	for (int i = 0; i < kLayers * kSites; i++) {
		const Site &site = sites[i % kSites];
		int n = 0, s = 0;
		for (int d = 0; d < c.adapters; d++) {
			const int begin = c.rows * d / c.adapters, end = c.rows * (d + 1) / c.adapters;
			int col = 0;
			for (int out : site.parts) {
				const int r = c.rank(d);
				const bf16 *a = take(static_cast<size_t>(r) * site.in), *w = take(static_cast<size_t>(out) * lora::ch_lora_ldb(r));
				all[i * kMaxTerms + n++] = {a, w, nullptr, begin, end - begin, r, out, col, s, 0.01f, 0};
				s += lora::ch_lora_tiles(end - begin, r);
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
	return bytes;
}

void small(Bench &b, int rows, int s) {
	cudaLaunchAttribute early = {};
	early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	early.val.programmaticStreamSerializationAllowed = 1;
	cudaLaunchConfig_t config = {};
	config.gridDim = rows, config.blockDim = 512, config.stream = b.stream, config.attrs = &early, config.numAttrs = 1;
	CHECK(cudaLaunchKernelEx(&config, small_kernel, reinterpret_cast<const uint4 *>(b.y[s]), reinterpret_cast<uint4 *>(b.spare), sites[s].out / 8));
}

void library_layer(Bench &b, int rows, int layer, bool adapters) {
	for (int s = 0; s < kSites; s++) {
		b.products->run(b.stream, {rows, sites[s].out, sites[s].in, sites[s].wide, false}, {b.x[s], b.weights[layer][s], nullptr, b.y[s], b.workspace});
		if (adapters) {
			const DecodeArgs a = args_of(b, rows, layer, s, true);
			lora::LoraLaunch l{};
			l.terms = a.terms, l.count = a.count, l.max_terms = a.max_terms, l.rows = rows;
			l.x = a.x, l.ldx = l.in = a.in, l.y = a.y, l.ldy = a.ldy, l.y_float = sites[s].wide;
			l.scratch = b.scratch, l.early = true;
			CHECK(lora::lora_shrink(l, b.stream));
			CHECK(lora::lora_expand(l, b.stream));
		}
		small(b, rows, s);
	}
}

void own_layer(Bench &b, const Choice (&best)[kSites], int rows, int layer, bool adapters) {
	for (int s = 0; s < kSites; s++) {
		CHECK(best[s].variant->launch(args_of(b, rows, layer, s, adapters), best[s].cut, b.stream));
		small(b, rows, s);
	}
}

void chains(Bench &b, const Choice (&best)[kSites], int rows) {
	const auto library = [&](bool adapters) {
		return graph_us(b, [&](int layer) {
			library_layer(b, rows, layer, adapters);
			return true;
		});
	};
	const auto own = [&](bool adapters) {
		return graph_us(b, [&](int layer) {
			own_layer(b, best, rows, layer, adapters);
			return true;
		});
	};
	const double base_library = library(false), base_own = own(false);
	early = false;
	printf("without early start: own %.0f\n", own(false));
	early = true;
	printf("rows %d, chain of 32 layers with small kernels, us: cuBLASLt %.0f, own %.0f\n", rows, base_library, base_own);
	printf("   %3s %-6s %7s | %8s %8s | %8s %8s  x floor\n", "D", "rank", "floor", "library", "added", "own", "added");
	const std::vector<std::pair<std::string, std::vector<int>>> kinds = {{"r16", {16}}, {"r64", {64}}, {"r4-128", {4, 8, 16, 32, 64, 128}}};
	CHECK(cudaMemset(b.counts, 0, sizeof(int32_t) * kLayers * kSites));
	printf("     0 terms in the table: own %.0f\n", own(true));
	for (int adapters : {1, 8, 32, 64}) {
		for (const auto &kind : kinds) {
			if (adapters > rows || (adapters == 1 && kind.second.size() > 1)) {
				continue;
			}
			const double floor = upload_terms(b, {rows, adapters, kind.second, kind.first}) / b.bandwidth * 1e6;
			const double l = library(true), o = own(true);
			printf("   %3d %-6s %7.0f | %8.0f %8.0f | %8.0f %8.0f  %.2f\n", adapters, kind.first.c_str(), floor, l, l - base_library, o, o - base_own, (o - base_own) / floor);
			fflush(stdout);
		}
	}
}

} // namespace

int main(int argc, char **argv) {
	static Bench b;
	const auto clock = [start = std::chrono::steady_clock::now()](const char *what) { printf("%.1f s: %s\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), what); };
	const std::string what = argc > 1 ? argv[1] : "all";
	set_up(&b);
	clock("set up");
	const size_t n = size_t{8} << 30;
	b.bandwidth = n / median_us(b, [&] { read_all<<<132 * 4, 512, 0, b.stream>>>(reinterpret_cast<const uint4 *>(b.pool), n / 16, reinterpret_cast<uint32_t *>(b.scratch)); }, 7, 10) * 1e6;
	printf("read bandwidth %.3f TB/s\n", b.bandwidth / 1e12);
	for (int rows : what == "adapters" ? std::vector<int>{64} : std::vector<int>{64, 1}) {
		const std::vector<Variant> all = variants(rows);
		Choice best[kSites];
		if (what == "debug") {
			const Variant *v = &all[1];
			best[0] = {v, {8, 4, true}, 0}, best[1] = {v, {8, 6, true}, 0}, best[2] = {v, {8, 1, false}, 0}, best[3] = {v, {8, 6, true}, 0};
			upload_terms(b, {64, 8, {64}, "r64"});
			for (int s = 0; s < kSites; s++) {
				printf("site %d alone\n", s);
				fflush(stdout);
				printf("   %.2f us\n", product_us(b, best[s], rows, s, true));
			}
			for (int e = 0; e < 2; e++) {
				early = e != 0;
				printf("chain early %d\n", e);
				fflush(stdout);
				printf("   %.2f us\n", graph_us(b, [&](int layer) {
					own_layer(b, best, rows, layer, true);
					return true;
				}));
			}
			return 0;
		}
		for (int s = 0; s < kSites; s++) {
			const std::vector<Choice> found = sweep(b, all, rows, s);
			const double floor = 2.0 * sites[s].in * sites[s].out / b.bandwidth * 1e6;
			clock("library next");
			printf("rows %d %s: floor %.2f us, cuBLASLt %.2f, %zu variants\n", rows, sites[s].name, floor, library_us(b, rows, s), found.size());
			for (size_t i = 0; i < found.size() && i < 10; i++) {
				print(found[i], s);
			}
			for (size_t i = 10; i < found.size(); i++) { // the best of each kind
				const auto kind = [](const Choice &a, const Choice &b) { return a.variant == b.variant && a.cut.cluster == b.cut.cluster; };
				if (std::none_of(found.begin(), found.begin() + i, [&](const Choice &c) { return kind(c, found[i]); })) {
					print(found[i], s);
				}
			}
			best[s] = found.at(0);
			upload_terms(b, {rows, rows > 8 ? 8 : 1, {16}, ""});
			double least = -1;
			for (size_t i = 0; i < found.size() && i < 24; i++) {
				const double us = product_us(b, found[i], rows, s, true);
				if (us > 0 && (least < 0 || us < least)) {
					least = us, best[s] = found[i];
				}
			}
			printf("   with 8 adapters %.2f us:\n", least);
			print(best[s], s);
			clock("swept");
			fflush(stdout);
		}
		if (what != "sweep") {
			chains(b, best, rows);
		}
	}
	return 0;
}
