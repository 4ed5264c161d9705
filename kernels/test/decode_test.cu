// Checks the product of decode rows against float64 on the CPU: random shapes,
// cuts and adapters, ranks 1 to 512, missing factors, biases, both kinds of y;
// that nothing outside y is written, that equal launches give equal bits, and
// that the counters are ready for the next launch.
//
//	nvcc -std=c++17 -O3 -arch=sm_90 -Ikernels/device kernels/test/decode_test.cu -o decode_test
//	decode_test [cases] [seed]
#include "decode_launch.cuh"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

using namespace chorale::decode;

#define CHECK(call)                                                                        \
	do {                                                                                   \
		const cudaError_t e = (call);                                                      \
		if (e != cudaSuccess) {                                                            \
			fprintf(stderr, "%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e)); \
			exit(1);                                                                       \
		}                                                                                  \
	} while (0)

namespace {

std::mt19937_64 rng;
int failures = 0;
double worst_float = 0, worst_bf16 = 0;

int between(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(rng); }
bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(rng) < p; }

std::vector<float> normal(size_t n, float scale, bool round) {
	std::normal_distribution<float> d(0, scale);
	std::vector<float> v(n);
	for (float &f : v) {
		f = round ? __bfloat162float(__float2bfloat16_rn(d(rng))) : d(rng);
	}
	return v;
}

template <class F> void parallel(int n, F f) {
	const int workers = std::max(1u, std::thread::hardware_concurrency());
	std::vector<std::thread> threads;
	for (int w = 0; w < workers; w++) {
		threads.emplace_back([=] {
			for (int i = w; i < n; i += workers) {
				f(i);
			}
		});
	}
	for (std::thread &t : threads) {
		t.join();
	}
}

std::vector<void *> owned; // device memory of a case

char *device_bytes(size_t n, int fill) {
	void *p;
	CHECK(cudaMalloc(&p, n + 512));
	CHECK(cudaMemset(p, fill, n + 512));
	owned.push_back(p);
	return static_cast<char *>(p);
}

template <class T> T *upload(const std::vector<T> &v) {
	char *p = device_bytes(v.size() * sizeof(T), 0xff);
	CHECK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
	return reinterpret_cast<T *>(p);
}

bf16 *upload_bf16(const std::vector<float> &v) {
	std::vector<bf16> h(v.size());
	for (size_t i = 0; i < v.size(); i++) {
		h[i] = __float2bfloat16_rn(v[i]);
	}
	return upload(h);
}

void release() {
	for (void *p : owned) {
		CHECK(cudaFree(p));
	}
	owned.clear();
}

struct HostTerm {
	ch_lora_term t;
	std::vector<float> a, b, bias;
};

HostTerm make_term(int row0, int rows, int in, int rank, int out, int col) {
	HostTerm h{};
	h.t = {nullptr, nullptr, nullptr, row0, rows, rank, out, col, 0, 0.25f + 0.01f * between(0, 100), 0};
	if (!chance(0.06)) {
		h.a = normal(static_cast<size_t>(rank) * in, 1 / sqrtf(in), true);
		h.t.a = upload_bf16(h.a);
	}
	if (!chance(0.06)) {
		h.b = normal(static_cast<size_t>(out) * rank, 1 / sqrtf(rank), true);
		const int ldb = chorale::lora::ch_lora_ldb(rank);
		std::vector<float> padded(static_cast<size_t>(out) * ldb, 0);
		for (int o = 0; o < out; o++) {
			std::copy_n(&h.b[static_cast<size_t>(o) * rank], rank, &padded[static_cast<size_t>(o) * ldb]);
		}
		h.t.b = upload_bf16(padded);
	}
	if (chance(0.3)) {
		h.bias = normal(out, 1, false);
		h.t.bias = upload(h.bias);
	}
	return h;
}

struct Case {
	int rows, in, out, ldx;
	bool wide;
	std::vector<float> x, w, bias;
	std::vector<HostTerm> terms;
	bf16 *dx, *dw;
};

int random_rank() {
	switch (between(0, 4)) {
	case 0: return between(1, 16);
	case 1: return between(1, 128);
	case 2: return between(1, 512);
	default: return 1 << between(2, 7);
	}
}

// make_case deals rows out to adapters, some rows to none, and gives every
// adapter some of the parts.
Case make_case(int rows, int in, const std::vector<int> &parts, int adapters, bool wide) {
	Case c{};
	c.rows = rows, c.in = in, c.wide = wide;
	for (int out : parts) {
		c.out += out;
	}
	c.out = (c.out + 7) / 8 * 8;
	c.ldx = in + 8 * between(0, 2);
	c.x = normal(static_cast<size_t>(rows) * c.ldx, 1, true);
	c.w = normal(static_cast<size_t>(c.out) * in, 1 / sqrtf(in), true);
	if (chance(0.4)) {
		c.bias = normal(c.out, 1, !wide);
	}
	c.dx = upload_bf16(c.x), c.dw = upload_bf16(c.w);
	int row = 0;
	for (int d = 0; d < adapters && row < rows; d++) {
		row += chance(0.3) ? between(0, 3) : 0;
		const int n = std::min(rows - row, between(1, std::max(1, 2 * rows / adapters)));
		const int rank = random_rank();
		int col = 0;
		for (int out : parts) {
			if (row < rows && chance(0.85)) {
				c.terms.push_back(make_term(row, n, in, chance(0.2) ? random_rank() : rank, out, col));
			}
			col += out;
		}
		row += std::max(0, n);
	}
	return c;
}

std::vector<double> reference(const Case &c) {
	std::vector<double> y(static_cast<size_t>(c.rows) * c.out);
	parallel(c.rows, [&](int i) {
		const float *x = &c.x[static_cast<size_t>(i) * c.ldx];
		for (int o = 0; o < c.out; o++) {
			double sum = c.bias.empty() ? 0 : c.bias[o];
			for (int k = 0; k < c.in; k++) {
				sum += static_cast<double>(x[k]) * c.w[static_cast<size_t>(o) * c.in + k];
			}
			y[static_cast<size_t>(i) * c.out + o] = sum;
		}
		for (const HostTerm &h : c.terms) {
			const ch_lora_term &t = h.t;
			if (i < t.row0 || i >= t.row0 + t.rows) {
				continue;
			}
			const int rank = h.a.empty() || h.b.empty() ? 0 : t.rank;
			std::vector<double> v(rank, 0);
			for (int r = 0; r < rank; r++) {
				for (int k = 0; k < c.in; k++) {
					v[r] += static_cast<double>(x[k]) * h.a[static_cast<size_t>(r) * c.in + k];
				}
			}
			for (int o = 0; o < t.out; o++) {
				double sum = h.bias.empty() ? 0 : h.bias[o];
				for (int r = 0; r < rank; r++) {
					sum += t.scale * v[r] * h.b[static_cast<size_t>(o) * rank + r];
				}
				y[static_cast<size_t>(i) * c.out + t.col + o] += sum;
			}
		}
	});
	return y;
}

void expect(bool ok, const Case &c, const Cut &cut, const char *what, double value) {
	if (!ok) {
		failures++;
		printf("FAIL %s: rows %d in %d out %d terms %zu wide %d, %d warps split %d cluster %d: %g\n", what, c.rows, c.in, c.out, c.terms.size(), c.wide, cut.warps, cut.split, cut.cluster, value);
	}
}

// Device has what outlives launches, as a stream has.
struct Device {
	char *workspace;
	Counters *counters;
	int processors;
	bool clusters;
} device;

template <class S, class Out> std::vector<float> launch(const Case &c, const Cut &cut, bool adapters) {
	std::vector<ch_lora_term> terms;
	int tiles = 0;
	for (const HostTerm &h : c.terms) {
		terms.push_back(h.t);
		terms.back().s = tiles;
		tiles += chorale::lora::ch_lora_tiles(h.t.rows, h.t.a && h.t.b ? h.t.rank : 0);
	}
	const int count = static_cast<int>(terms.size()), max_terms = count + between(1, 40);
	terms.resize(max_terms); // what lies behind the count must not matter
	memset(static_cast<void *>(terms.data() + count), 0xff, (max_terms - count) * sizeof(ch_lora_term));
	DecodeArgs a{};
	a.x = c.dx, a.w = c.dw, a.ldx = c.ldx, a.in = c.in, a.out = c.out, a.rows = c.rows, a.ldy = c.out + 8;
	const size_t size = static_cast<size_t>(c.rows) * a.ldy;
	char *y = device_bytes(size * sizeof(Out), 0xff);
	a.y = y;
	if (!c.bias.empty()) {
		a.bias = c.wide ? static_cast<void *>(upload(c.bias)) : upload_bf16(c.bias);
	}
	a.workspace = device.workspace, a.counters = device.counters;
	if (adapters) {
		a.terms = upload(terms), a.count = upload(std::vector<int32_t>{count}), a.max_terms = max_terms;
		a.scratch = device_bytes(static_cast<size_t>(tiles) * 1024, 0xff);
	}
	CHECK((launch_product<S, Out>(a, cut, device.clusters, 0)));
	CHECK(cudaDeviceSynchronize());
	std::vector<Out> raw(size);
	CHECK(cudaMemcpy(raw.data(), y, size * sizeof(Out), cudaMemcpyDeviceToHost));
	std::vector<float> out;
	bool clean = true;
	for (size_t i = 0; i < size; i++) {
		if (static_cast<int>(i % a.ldy) < c.out) {
			if constexpr (sizeof(Out) == 2) {
				out.push_back(__bfloat162float(raw[i]));
			} else {
				out.push_back(raw[i]);
			}
		} else {
			clean = clean && reinterpret_cast<const unsigned char *>(&raw[i])[0] == 0xff;
		}
	}
	expect(clean, c, cut, "written beside y", 0);
	std::vector<char> counters(sizeof(Counters));
	CHECK(cudaMemcpy(counters.data(), device.counters, counters.size(), cudaMemcpyDeviceToHost));
	expect(std::all_of(counters.begin(), counters.end(), [](char v) { return v == 0; }), c, cut, "counters left", 0);
	return out;
}

template <class S> void check(const Case &c, const Cut &cut) {
	const bool adapters = !c.terms.empty() || chance(0.5);
	if (cut.split > 8 || !serves<S>(c.out, c.in, cut, adapters)) {
		return;
	}
	const auto run = [&] { return c.wide ? launch<S, float>(c, cut, adapters) : launch<S, bf16>(c, cut, adapters); };
	const std::vector<double> want = reference(c);
	const std::vector<float> got = run();
	double err = 0, ref = 0;
	for (size_t i = 0; i < want.size(); i++) {
		err += (got[i] - want[i]) * (got[i] - want[i]);
		ref += want[i] * want[i];
	}
	// float32: sums of products of bf16, v carried as two bf16; bf16: one rounding.
	const double e = std::sqrt(err / ref);
	(c.wide ? worst_float : worst_bf16) = std::max(c.wide ? worst_float : worst_bf16, e);
	expect(e <= (c.wide ? 1e-5 : 2.5e-3), c, cut, "error", e); // NaN fails too
	expect(run() == got, c, cut, "equal launches differ", 0);
}

Cut random_cut(int out) {
	Cut cut = {between(1, device.clusters ? kMostWarps : 2), 1, chance(0.7) && device.clusters};
	const int tiles = parts_of(out, cut.warps * kWarpRows);
	cut.split = between(1, std::min(8, std::max(1, device.processors / tiles)));
	return cut;
}

void one_case(int rows) {
	const int ins[] = {256, 320, 520, 576, 1000, 2048, 4096};
	const int in = ins[between(0, device.clusters ? 6 : 3)];
	const int most = device.clusters ? 260 : 12, width = 8 * between(1, most);
	const std::vector<int> parts = chance(0.5) ? std::vector<int>{width} : std::vector<int>{width, chance(0.2) ? 61 : 64, 64};
	const Case c = make_case(rows, in, parts, chance(0.2) ? 0 : between(1, std::min(rows, 64)), chance(0.5));
	const Cut cut = random_cut(c.out);
	if (rows <= 8) {
		check<Shape<1, 4, 64>>(c, cut);
	} else if (rows <= 16) {
		check<Shape<2, 4, 64>>(c, cut);
	} else {
		check<Shape<8, 4, 64>>(c, cut);
	}
	release();
}

void set_up() {
	CHECK(cudaMalloc(reinterpret_cast<void **>(&device.workspace), 48 << 20));
	CHECK(cudaMalloc(reinterpret_cast<void **>(&device.counters), sizeof(Counters)));
	CHECK(cudaMemset(device.workspace, 0xff, 48 << 20));
	CHECK(cudaMemset(device.counters, 0, sizeof(Counters)));
#ifdef CHORALE_ON_CPU
	on_cpu::by_turns = true;
	device.processors = 6, device.clusters = false;
#else
	chorale::lora::DeviceShape shape;
	CHECK(chorale::lora::device_shape(&shape));
	device.processors = shape.processors - 12, device.clusters = shape.clusters; // 12: clusters leave some unused
#endif
}

} // namespace

int main(int argc, char **argv) {
	const int n = argc > 1 ? atoi(argv[1]) : 200;
	rng.seed(argc > 2 ? strtoull(argv[2], nullptr, 10) : 1);
	set_up();
	for (int i = 0; i < n; i++) {
		one_case(chance(0.2) ? 64 : between(1, kMostRows));
	}
	printf("%s: worst errors: float32 %.2e (bound 1e-5), bf16 %.2e (2.5e-3)\n", failures ? "FAILED" : "ok", worst_float, worst_bf16);
	return failures ? 1 : 0;
}
