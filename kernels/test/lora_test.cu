// Checks the LoRA kernels against float64 on the CPU: random shapes, ranks 1 to
// 512, missing factors, biases, both kinds of y, the fused activation; and that
// a row's bits do not depend on its company or on the tile sizes.
//
//	nvcc -std=c++17 -O3 -arch=sm_90 -Ikernels/device kernels/test/lora_test.cu -o lora_test
//	lora_test [cases] [seed]
#include "lora.cuh"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

using namespace chorale::lora;

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

// Device memory with a poisoned guard behind it, freed at the end of a case.
std::vector<void *> owned;

char *device_bytes(size_t n, int poison) {
	void *p;
	CHECK(cudaMalloc(&p, n + 512));
	CHECK(cudaMemset(p, poison, n + 512));
	owned.push_back(p);
	return static_cast<char *>(p);
}

bf16 *upload_bf16(const std::vector<float> &v) {
	std::vector<bf16> h(v.size());
	for (size_t i = 0; i < v.size(); i++) {
		h[i] = __float2bfloat16_rn(v[i]);
	}
	char *p = device_bytes(h.size() * 2, 0xff);
	CHECK(cudaMemcpy(p, h.data(), h.size() * 2, cudaMemcpyHostToDevice));
	return reinterpret_cast<bf16 *>(p);
}

template <class T> T *upload(const std::vector<T> &v) {
	char *p = device_bytes(v.size() * sizeof(T), 0xff);
	CHECK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
	return reinterpret_cast<T *>(p);
}

template <class T> std::vector<T> download(const void *p, size_t n) {
	std::vector<T> v(n);
	CHECK(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
	return v;
}

void release() {
	for (void *p : owned) {
		CHECK(cudaFree(p));
	}
	owned.clear();
}

// HostTerm is a term with its factors at home.
struct HostTerm {
	ch_lora_term t;
	std::vector<float> a, b, bias;
};

HostTerm make_term(int row0, int rows, int in, int rank, int out, int col) {
	HostTerm h{};
	h.t = {nullptr, nullptr, nullptr, row0, rows, rank, out, col, 0, 0.25f + 0.01f * between(0, 100), 0};
	if (!chance(0.08)) {
		h.a = normal(static_cast<size_t>(rank) * in, 1 / sqrtf(in), true);
		h.t.a = upload_bf16(h.a);
	}
	if (!chance(0.08)) {
		h.b = normal(static_cast<size_t>(out) * rank, 1 / sqrtf(rank), true);
		const int ldb = ch_lora_ldb(rank);
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

int number_tiles(std::vector<ch_lora_term> &terms) {
	int s = 0;
	for (ch_lora_term &t : terms) {
		t.s = s;
		s += ch_lora_tiles(t.rows, t.a && t.b ? t.rank : 0);
	}
	return s;
}

// Case is one linear layer with its data.
struct Case {
	int rows, in, ldx, ldy;
	bool y_float;
	std::vector<float> x, y;
	std::vector<HostTerm> terms;
	bf16 *dx;
};

int random_rank() {
	switch (between(0, 4)) {
	case 0:
		return between(1, 16);
	case 1:
		return between(1, 128);
	case 2:
		return between(1, 512);
	default:
		return 1 << between(2, 7);
	}
}

// make_case deals rows out to adapters, some rows to none, and gives every
// adapter some of the parts.
Case make_case(int rows, int in, const std::vector<int> &parts, int adapters, bool y_float) {
	Case c{};
	c.rows = rows;
	c.in = in;
	c.ldx = in + 8 * between(0, 2);
	c.y_float = y_float;
	for (int out : parts) {
		c.ldy += out;
	}
	c.ldy += chance(0.2) ? between(1, 9) : 0;
	c.x = normal(static_cast<size_t>(rows) * c.ldx, 1, true);
	c.y = normal(static_cast<size_t>(rows) * c.ldy, 1, !y_float);
	c.dx = upload_bf16(c.x);
	int row = 0;
	for (int d = 0; d < adapters && row < rows; d++) {
		row += chance(0.3) ? between(0, 3) : 0;
		const int n = std::min(rows - row, chance(0.1) ? 0 : between(1, std::max(1, 2 * rows / adapters)));
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

// reference adds every term to y in float64.
std::vector<double> reference(const Case &c) {
	std::vector<double> y(c.y.begin(), c.y.end());
	for (const HostTerm &h : c.terms) {
		const ch_lora_term &t = h.t;
		parallel(t.rows, [&](int i) {
			std::vector<double> v(t.rank, 0);
			const float *x = &c.x[static_cast<size_t>(t.row0 + i) * c.ldx];
			for (int r = 0; r < t.rank && !h.a.empty() && !h.b.empty(); r++) {
				double sum = 0;
				for (int k = 0; k < c.in; k++) {
					sum += static_cast<double>(x[k]) * h.a[static_cast<size_t>(r) * c.in + k];
				}
				v[r] = sum * t.scale;
			}
			for (int o = 0; o < t.out; o++) {
				double sum = h.bias.empty() ? 0 : h.bias[o];
				for (int r = 0; r < t.rank && !h.a.empty() && !h.b.empty(); r++) {
					sum += v[r] * h.b[static_cast<size_t>(o) * t.rank + r];
				}
				y[static_cast<size_t>(t.row0 + i) * c.ldy + t.col + o] += sum;
			}
		});
	}
	return y;
}

struct Ran {
	std::vector<float> y, act;
};

// run computes a case's y with some of its terms; rows_hint chooses kernels.
Ran run(const Case &c, const std::vector<ch_lora_term> &some, int rows_hint, bool early, int inter = 0) {
	std::vector<ch_lora_term> terms = some;
	const int tiles = number_tiles(terms), count = static_cast<int>(terms.size()), max_terms = count + between(1, 300);
	terms.resize(max_terms); // what lies behind the count must not matter
	memset(static_cast<void *>(terms.data() + count), 0xff, (max_terms - count) * sizeof(ch_lora_term));
	LoraLaunch l{};
	l.terms = upload(terms);
	l.count = upload(std::vector<int32_t>{count});
	l.max_terms = max_terms;
	l.rows = rows_hint;
	l.x = c.dx;
	l.ldx = c.ldx;
	l.in = c.in;
	l.ldy = c.ldy;
	l.y = c.y_float ? static_cast<void *>(upload(c.y)) : upload_bf16(c.y);
	l.y_float = c.y_float;
	l.scratch = device_bytes(static_cast<size_t>(tiles) * kTileBytes, 0xff);
	l.early = early;
	CHECK(lora_shrink(l, 0));
	Ran r;
	bf16 *act = nullptr;
	if (inter > 0) {
		act = reinterpret_cast<bf16 *>(device_bytes(static_cast<size_t>(c.rows) * inter * 2, 0xff));
		CHECK(lora_expand_silu(l, act, inter, inter, 0));
	} else {
		CHECK(lora_expand(l, 0));
	}
	CHECK(cudaDeviceSynchronize());
	if (inter > 0) {
		for (bf16 v : download<bf16>(act, static_cast<size_t>(c.rows) * inter)) {
			r.act.push_back(__bfloat162float(v));
		}
	}
	if (c.y_float) {
		r.y = download<float>(l.y, c.y.size());
	} else {
		for (bf16 v : download<bf16>(l.y, c.y.size())) {
			r.y.push_back(__bfloat162float(v));
		}
	}
	return r;
}

// relative returns the norm of got - want over the norm of want - base.
double relative(const std::vector<float> &got, const std::vector<double> &want, const std::vector<float> &base) {
	double err = 0, ref = 0;
	for (size_t i = 0; i < got.size(); i++) {
		const double b = base.empty() ? 0 : base[i];
		err += (got[i] - want[i]) * (got[i] - want[i]);
		ref += (want[i] - b) * (want[i] - b);
	}
	return ref == 0 ? std::sqrt(err) : std::sqrt(err / ref);
}

void expect(bool ok, const Case &c, const char *what, double value) {
	if (!ok) {
		failures++;
		printf("FAIL %s: rows %d in %d ldy %d terms %zu float %d: %g\n", what, c.rows, c.in, c.ldy, c.terms.size(), c.y_float, value);
	}
}

std::vector<ch_lora_term> device_terms(const Case &c) {
	std::vector<ch_lora_term> terms;
	for (const HostTerm &h : c.terms) {
		terms.push_back(h.t);
	}
	return terms;
}

double worst_float = 0, worst_bf16 = 0, worst_act = 0;

// check_values compares with float64. Bounds: float32 y 2e-5 of the change
// (two bf16 carry v to 2^-17); bf16 y 2.5e-3 of y (one rounding, 2^-9).
void check_values(const Case &c) {
	const std::vector<double> want = reference(c);
	const Ran got = run(c, device_terms(c), c.rows, chance(0.5));
	if (c.y_float) {
		const double e = relative(got.y, want, c.y);
		worst_float = std::max(worst_float, e);
		expect(e <= 2e-5, c, "float32 error", e); // NaN fails too
	} else {
		const double e = relative(got.y, want, {});
		worst_bf16 = std::max(worst_bf16, e);
		expect(e <= 2.5e-3, c, "bf16 error", e);
	}
	for (size_t i = 0; i < want.size(); i++) {
		if (want[i] == c.y[i] && got.y[i] != c.y[i]) {
			expect(false, c, "value outside of all terms changed, index", static_cast<double>(i));
			break;
		}
	}
}

// check_bits runs every term alone, and all with the other tile sizes: every
// bit must stay.
void check_bits(const Case &c) {
	const std::vector<ch_lora_term> terms = device_terms(c);
	const Ran all = run(c, terms, 64, false), large = run(c, terms, 2048, true);
	expect(all.y == large.y, c, "tile sizes change bits", 0);
	for (size_t i = 0; i < std::min<size_t>(terms.size(), 6); i++) {
		ch_lora_term one = terms[i];
		const int skip = one.rows > 1 ? between(0, one.rows - 1) : 0; // also: its last rows only
		one.row0 += skip;
		one.rows -= skip;
		const Ran alone = run(c, {one}, 64, false);
		bool same = true;
		for (int r = one.row0; r < one.row0 + one.rows; r++) {
			const size_t at = static_cast<size_t>(r) * c.ldy + one.col;
			same = same && memcmp(&alone.y[at], &all.y[at], one.out * sizeof(float)) == 0;
		}
		expect(same, c, "alone differs from company, term", static_cast<double>(i));
	}
}

void check_silu(const Case &c, int inter) {
	const std::vector<double> y = reference(c);
	std::vector<double> want(static_cast<size_t>(c.rows) * inter);
	for (int r = 0; r < c.rows; r++) {
		for (int i = 0; i < inter; i++) {
			const double g = y[static_cast<size_t>(r) * c.ldy + i], u = y[static_cast<size_t>(r) * c.ldy + inter + i];
			want[static_cast<size_t>(r) * inter + i] = g / (1 + std::exp(-g)) * u;
		}
	}
	const Ran got = run(c, device_terms(c), c.rows, chance(0.5), inter), other = run(c, device_terms(c), c.rows, false, inter);
	const double e = relative(got.act, want, {});
	worst_act = std::max(worst_act, e);
	expect(e <= 2.5e-3, c, "activation error", e);
	expect(got.y == c.y, c, "y changed by the fused activation", 0);
	expect(got.act == other.act, c, "early start changes bits", 0);
}

void check_arguments() {
	LoraLaunch l{};
	Case c{};
	expect(lora_shrink(l, 0) == cudaErrorInvalidValue && lora_expand(l, 0) == cudaErrorInvalidValue, c, "null arguments accepted", 0);
}

void random_cases(int n) {
	const int ins[] = {8, 64, 72, 576, 1000, 1536, 2048, 4096, 14336};
	for (int i = 0; i < n; i++) {
		const int in = ins[between(0, 8)], rows = chance(0.25) ? between(257, 400) : between(1, 96);
		const int adapters = between(1, std::min(rows, 40)), wide = chance(0.2) ? 1000 : 8 * between(1, 130);
		const std::vector<int> parts = chance(0.5) ? std::vector<int>{wide} : std::vector<int>{wide, chance(0.2) ? 61 : 64, 64};
		check_values(make_case(rows, in, parts, adapters, chance(0.5)));
		release();
		check_bits(make_case(rows, in, parts, adapters, chance(0.5)));
		release();
		const int inter = chance(0.2) ? 8 * between(1, 40) + 4 : 8 * between(1, 80);
		check_silu(make_case(rows, std::min(in, 2048), {inter, inter}, adapters, false), inter);
		release();
	}
}

} // namespace

int main(int argc, char **argv) {
	const int n = argc > 1 ? atoi(argv[1]) : 60;
	rng.seed(argc > 2 ? strtoull(argv[2], nullptr, 10) : 1);
	check_arguments();
	for (int rank : {1, 3, 16, 17, 31, 32, 33, 64, 100, 511, 512}) { // one adapter over all rows, every kind of rank
		Case c = make_case(20, 1024, {512}, 1, true);
		c.terms.clear();
		c.terms.push_back(make_term(3, 17, 1024, rank, 512, 0));
		check_values(c);
		check_bits(c);
		release();
	}
	random_cases(n);
	printf("%s: worst errors: float32 %.2e (bound 2e-5), bf16 %.2e (2.5e-3), activation %.2e (2.5e-3)\n", failures ? "FAILED" : "ok", worst_float, worst_bf16, worst_act);
	return failures ? 1 : 0;
}
