#include "product.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "context.h"
#include "vec.cuh"

namespace chorale {

namespace {

// Rows for which the deterministic kernel is chosen; it then serves any number.
constexpr int32_t kDeterministicRows = 64;
constexpr int kCandidates = 16;

// noise_kernel fills weights to measure with: products of zeros run faster.
static __global__ void noise_kernel(bf16 *dst, int64_t n) {
	for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
		uint32_t h = static_cast<uint32_t>(i) * 2654435761u;
		h ^= h >> 15;
		h *= 2246822519u;
		h ^= h >> 13;
		dst[i] = __float2bfloat16_rn((static_cast<int32_t>(h) >> 8) * 1e-8f);
	}
}

struct Event {
	cudaEvent_t e = nullptr;
	Event() { check(cudaEventCreate(&e), "event"); }
	~Event() { cudaEventDestroy(e); }
};

} // namespace

Products::Products(const cublaslt::Library &library, ProductOptions options) : lib_(library), options_(std::move(options)) {
	const int32_t status = lib_.Create(&handle_);
	if (status != cublaslt::kSuccess) {
		fail(CH_UNSUPPORTED, "cuBLASLt does not start: %s", lib_.GetStatusString(status));
	}
	recall();
}

Products::~Products() {
	for (auto &p : plans_) {
		release(p.second);
	}
	lib_.Destroy(handle_);
}

void Products::require(int32_t status, const char *what, const Shape &s) {
	if (status != cublaslt::kSuccess) {
		fail(CH_DEVICE, "product [%d, %d] x [%d, %d]: %s: %s", s.rows, s.in, s.out, s.in, what, lib_.GetStatusString(status));
	}
}

// prepare describes the product to cuBLASLt, whose matrices are column-major:
// y^T [out, rows] = op(w) x^T with w stored as [in, out].
Products::Plan Products::prepare(const Shape &s) {
	Plan p;
	const int32_t type = s.wide ? CUDA_R_32F : CUDA_R_16BF;
	require(lib_.MatmulDescCreate(&p.desc, cublaslt::kCompute32F, CUDA_R_32F), "description", s);
	const int32_t transpose = cublaslt::kOpT;
	require(lib_.MatmulDescSetAttribute(p.desc, cublaslt::kDescTransA, &transpose, sizeof transpose), "transposition", s);
	if (s.bias) {
		const int32_t epilogue = cublaslt::kEpilogueBias;
		require(lib_.MatmulDescSetAttribute(p.desc, cublaslt::kDescEpilogue, &epilogue, sizeof epilogue), "bias", s);
		require(lib_.MatmulDescSetAttribute(p.desc, cublaslt::kDescBiasType, &type, sizeof type), "bias type", s);
	}
	require(lib_.MatrixLayoutCreate(&p.w, CUDA_R_16BF, s.in, s.out, s.in), "layout of w", s);
	require(lib_.MatrixLayoutCreate(&p.x, CUDA_R_16BF, s.in, s.rows, s.in), "layout of x", s);
	require(lib_.MatrixLayoutCreate(&p.y, type, s.out, s.rows, s.out), "layout of y", s);
	return p;
}

void Products::release(Plan &p) {
	if (p.desc) {
		lib_.MatmulDescDestroy(p.desc);
	}
	for (cublaslt::Layout l : {p.w, p.x, p.y}) {
		if (l) {
			lib_.MatrixLayoutDestroy(l);
		}
	}
}

void Products::run(cudaStream_t stream, const Shape &shape, const Operands &o) {
	std::lock_guard<std::mutex> lock(mu_); // the bias pointer is part of the description
	Plan &p = find(stream, shape, o);
	require(start(p, p.algo, stream, o, o.w), "run", shape);
}

int32_t Products::start(const Plan &p, const cublaslt::Algo &algo, cudaStream_t stream, const Operands &o, const void *w) {
	const float one = 1, zero = 0;
	if (o.bias) {
		const int32_t status = lib_.MatmulDescSetAttribute(p.desc, cublaslt::kDescBiasPointer, &o.bias, sizeof o.bias);
		if (status != cublaslt::kSuccess) {
			return status;
		}
	}
	return lib_.Matmul(handle_, p.desc, &one, w, p.w, o.x, p.x, &zero, o.y, p.y, o.y, p.y, &algo, o.workspace, kProductWorkspace, stream);
}

Products::Plan &Products::find(cudaStream_t stream, const Shape &shape, const Operands &o) {
	const auto known = plans_.find(shape);
	if (known != plans_.end()) {
		return known->second;
	}
	Plan p = prepare(shape);
	try {
		choose(p, stream, shape, o);
	} catch (...) {
		release(p);
		throw;
	}
	return plans_.emplace(shape, p).first->second;
}

bool Products::fits(const Plan &p, const cublaslt::Algo &algo) {
	cublaslt::Heuristic h = {};
	return lib_.MatmulAlgoCheck(handle_, p.desc, p.w, p.x, p.y, p.y, &algo, &h) == cublaslt::kSuccess && h.workspace <= kProductWorkspace;
}

void Products::choose(Plan &p, cudaStream_t stream, const Shape &shape, const Operands &o) {
	if (options_.deterministic) {
		Shape fixed = shape;
		fixed.rows = kDeterministicRows;
		const auto known = memory_.find(fixed);
		if (known == memory_.end()) {
			Plan reference = prepare(fixed);
			std::vector<cublaslt::Heuristic> found;
			try {
				found = candidates(reference, 1);
			} catch (...) {
				release(reference);
				throw;
			}
			release(reference);
			memory_[fixed] = found.at(0).algo;
		}
		p.algo = memory_[fixed];
		if (!fits(p, p.algo)) {
			fail(CH_UNSUPPORTED, "product [%d, %d] x [%d, %d]: its kernel does not serve this many rows deterministically", shape.rows, shape.in, shape.out, shape.in);
		}
		return;
	}
	if (remembered(p, shape)) {
		return;
	}
	if (options_.tune) {
		p.algo = fastest(p, stream, shape, o);
		remember(shape, p.algo);
		return;
	}
	p.algo = candidates(p, 1).at(0).algo;
}

// candidates asks for kernels, most promising first; there is at least one.
std::vector<cublaslt::Heuristic> Products::candidates(const Plan &p, int most) {
	cublaslt::Preference preference = nullptr;
	if (lib_.MatmulPreferenceCreate(&preference) != cublaslt::kSuccess) {
		fail(CH_DEVICE, "cuBLASLt: no preference");
	}
	const size_t workspace = options_.deterministic ? 0 : kProductWorkspace;
	lib_.MatmulPreferenceSetAttribute(preference, cublaslt::kPreferWorkspace, &workspace, sizeof workspace);
	if (options_.deterministic) {
		const uint32_t none = 0; // no sum is split over blocks
		lib_.MatmulPreferenceSetAttribute(preference, cublaslt::kPreferReductions, &none, sizeof none);
	}
	std::vector<cublaslt::Heuristic> found(most);
	int n = 0;
	const int32_t status = lib_.MatmulAlgoGetHeuristic(handle_, p.desc, p.w, p.x, p.y, p.y, preference, most, found.data(), &n);
	lib_.MatmulPreferenceDestroy(preference);
	found.resize(n);
	if (status != cublaslt::kSuccess || n == 0) {
		fail(CH_UNSUPPORTED, "cuBLASLt has no kernel for a product: %s", lib_.GetStatusString(status));
	}
	return found;
}

// fastest measures candidates on weights that do not stay in the L2 cache.
cublaslt::Algo Products::fastest(const Plan &p, cudaStream_t stream, const Shape &s, const Operands &o) {
	const std::vector<cublaslt::Heuristic> all = candidates(p, kCandidates);
	constexpr size_t kPool = 320 << 20;
	const size_t bytes = static_cast<size_t>(s.out) * s.in * 2;
	std::vector<const void *> weights = {o.w};
	void *pool = nullptr;
	if (bytes * 2 <= kPool && cudaMalloc(&pool, kPool) == cudaSuccess) {
		noise_kernel<<<1024, 256, 0, stream>>>(static_cast<bf16 *>(pool), kPool / 2);
		weights.clear();
		const size_t step = (bytes + 255) / 256 * 256;
		for (size_t at = 0; at + bytes <= kPool && weights.size() < 64; at += step) {
			weights.push_back(static_cast<char *>(pool) + at);
		}
	}
	cudaGetLastError(); // without a pool, the weight itself must do
	const int repeats = s.rows <= 512 ? std::max<int>(8, static_cast<int>(weights.size())) : 3;
	size_t best = 0;
	float best_time = -1;
	for (size_t i = 0; i < all.size(); i++) {
		const float t = measure(p, all[i].algo, stream, o, weights, repeats);
		if (t > 0 && (best_time < 0 || t < best_time)) {
			best = i, best_time = t;
		}
	}
	cudaFree(pool);
	return all[best].algo;
}

// measure gives the better of two runs in milliseconds, or -1.
float Products::measure(const Plan &p, const cublaslt::Algo &algo, cudaStream_t stream, const Operands &o, const std::vector<const void *> &weights, int repeats) {
	Event begin, end;
	float best = -1;
	if (start(p, algo, stream, o, weights[0]) != cublaslt::kSuccess) {
		return -1;
	}
	for (int run = 0; run < 2; run++) {
		check(cudaEventRecord(begin.e, stream), "measuring products");
		for (int i = 0; i < repeats; i++) {
			if (start(p, algo, stream, o, weights[i % weights.size()]) != cublaslt::kSuccess) {
				return -1;
			}
		}
		check(cudaEventRecord(end.e, stream), "measuring products");
		check(cudaEventSynchronize(end.e), "measuring products");
		float ms = 0;
		check(cudaEventElapsedTime(&ms, begin.e, end.e), "measuring products");
		best = best < 0 ? ms : std::min(best, ms);
	}
	return best;
}

bool Products::remembered(Plan &p, const Shape &shape) {
	const auto it = memory_.find(shape);
	if (it == memory_.end() || !fits(p, it->second)) {
		return false;
	}
	p.algo = it->second;
	return true;
}

// recall reads measurements: a line holds a shape and the algorithm's 64 bytes
// as eight hexadecimal words. Lines that do not read so are passed over.
void Products::recall() {
	if (options_.cache.empty() || options_.deterministic) {
		return;
	}
	std::ifstream in(options_.cache);
	for (std::string line; std::getline(in, line);) {
		std::istringstream words(line);
		Shape s = {};
		cublaslt::Algo a = {};
		words >> s.rows >> s.out >> s.in >> s.wide >> s.bias >> std::hex;
		for (uint64_t &w : a.data) {
			words >> w;
		}
		std::string end;
		words >> end;
		if (end == "end") {
			memory_[s] = a;
		}
	}
}

// remember adds a line. A cache that cannot be written only costs time.
void Products::remember(const Shape &s, const cublaslt::Algo &a) {
	memory_[s] = a;
	if (options_.cache.empty()) {
		return;
	}
	std::ostringstream line;
	line << s.rows << ' ' << s.out << ' ' << s.in << ' ' << s.wide << ' ' << s.bias << std::hex;
	for (const uint64_t w : a.data) {
		line << ' ' << w;
	}
	line << " end\n";
	std::ofstream(options_.cache, std::ios::app) << line.str() << std::flush;
}

} // namespace chorale
