// Random rows of logits with random requests, for the tests of sampling.
#pragma once

#ifdef CHORALE_ON_CPU
#include "on_cpu.h"
#undef __shared__
#define __shared__ static // blocks run one after another
#endif
#include "chorale_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

namespace {

std::mt19937_64 rng;
int failures = 0;

int between(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(rng); }
bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(rng) < p; }
double uniform(double lo, double hi) { return std::uniform_real_distribution<>(lo, hi)(rng); }
template <class T> T one_of(std::vector<T> v) { return v[between(0, static_cast<int>(v.size()) - 1)]; }

// Asked is one row with its parameters.
struct Asked {
	std::vector<float> logits;
	ch_sample_row row = {};
	std::vector<ch_adjust> adjust, bans;
	std::vector<int32_t> ids;
	double temperature = 0;
	int last = -1;
};

std::vector<float> random_logits(int cols) {
	std::vector<float> v(cols);
	const int kind = between(0, 6);
	std::normal_distribution<float> d(0, one_of<float>({0.01f, 1, 3, 20}));
	for (float &x : v) {
		x = kind == 0 ? 1.5f : kind == 1 ? std::round(d(rng)) : d(rng);
	}
	if (kind == 2) { // a few above a bulk
		for (int i = 0; i < 5; i++) {
			v[between(0, cols - 1)] += 15;
		}
	}
	if (kind == 3 && chance(0.5)) {
		for (int i = 0; i < cols; i++) {
			v[i] = chance(0.5) ? one_of<float>({NAN, -INFINITY, 0.f, -0.f}) : v[i];
		}
	}
	if (kind == 4 && chance(0.2)) {
		v[between(0, cols - 1)] = one_of<float>({INFINITY, NAN, -INFINITY});
	}
	return v;
}

std::vector<int32_t> distinct(int cols, int n) {
	std::vector<int32_t> ids;
	for (int i = 0; i < n; i++) {
		const int id = between(0, cols - 1);
		if (std::find(ids.begin(), ids.end(), id) == ids.end()) {
			ids.push_back(id);
		}
	}
	return ids;
}

Asked random_row(int cols) {
	Asked a;
	a.logits = random_logits(cols);
	ch_sample_row &p = a.row;
	a.temperature = one_of<double>({0, 0.05, 0.7, 1, 1, 2, 100});
	p.u = chance(0.1) ? one_of<double>({0, 1 - 1e-16}) : uniform(0, 1);
	p.inverse = a.temperature == 0 ? 0 : static_cast<float>(1 / a.temperature);
	p.reach = static_cast<float>(-32 * a.temperature);
	p.top_p = chance(0.5) ? 1 : one_of<double>({0.99999999, 0.95, 0.5, 0.01});
	p.top_k = chance(0.5) ? 0 : one_of<int>({1, 2, 20, 50, 1000, 5000});
	p.min_reach = chance(0.7) ? -INFINITY : static_cast<float>(a.temperature * std::log(one_of<double>({1, 0.5, 0.05, 1e-6})));
	p.repetition = chance(0.5) ? 1.f : one_of<float>({1.2f, 0.5f});
	p.frequency = chance(0.5) ? 0.f : 0.3f, p.presence = chance(0.5) ? 0.f : 0.7f;
	p.given = chance(0.1) ? between(0, cols - 1) : -1;
	if (chance(0.4)) {
		for (int id : distinct(cols, between(1, 40))) {
			const int count = between(0, 3);
			a.adjust.push_back({id, chance(0.3) ? static_cast<float>(uniform(-20, 20)) : 0.f, count, count > 0 || chance(0.5)});
		}
		a.last = chance(0.5) ? -1 : chance(0.5) ? a.adjust[0].id : between(0, cols - 1);
	}
	if (chance(0.2)) {
		for (int id : distinct(cols, between(1, 10))) {
			a.bans.push_back({id, 0, 0, 0});
		}
	}
	p.top = chance(0.3) ? one_of<int>({1, 5, 128, 2048}) : 0;
	a.ids = distinct(cols, between(0, 3));
	return a;
}

} // namespace
