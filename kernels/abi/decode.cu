#include "decode.h"

#include <algorithm>
#include <vector>

#include "decode_kernels.h"
#include "lora_ops.h"
#include "measure.h"

namespace chorale {

namespace {

using decode::Counters;
using decode::Cut;
using decode::DecodeArgs;
using decode::Kernels;
using decode::blocks_of;
using decode::kMostRows;
using decode::kMostSplit;
using decode::kMostWarps;
using decode::serves;

constexpr int32_t kMostTerms = 1024; // whose lists a block can hold
constexpr int kFinalists = 6;        // ways that are measured twice
// What shrink and expand take, at the least, as launches of their own.
constexpr float kLaunchesUs = 8;

int tiles_of(int32_t rows) { return rows <= 8 ? 1 : rows <= 32 ? 4 : 8; }

// by_tiles calls f with the kernels for some rows.
template <class F> auto by_tiles(int32_t rows, F f) {
	switch (tiles_of(rows)) {
	case 1: return f(Kernels<1>());
	case 4: return f(Kernels<4>());
	default: return f(Kernels<8>());
	}
}

Cut cut_of(const ch_stream &s, int warps, int split) { return {warps, split, s.context->info.major >= 9}; }

DecodeArgs arguments(const ch_stream &s, const Shape &shape, const Operands &o) {
	DecodeArgs a = {};
	a.x = static_cast<const decode::bf16 *>(o.x), a.w = static_cast<const decode::bf16 *>(o.w), a.bias = o.bias, a.y = o.y;
	a.ldx = a.in = shape.in, a.out = a.ldy = shape.out, a.rows = shape.rows;
	a.workspace = static_cast<char *>(o.workspace), a.counters = static_cast<Counters *>(s.counters);
	return a;
}

cudaError_t start(const ch_stream &s, const Shape &shape, const DecodeArgs &args, const Cut &cut) {
	return by_tiles(shape.rows, [&](auto k) { return k.launch(args, cut, shape.wide, s.context->info.major >= 9, s.cuda); });
}

} // namespace

int64_t DecodeProducts::resident(const ch_stream &s, const Shape &shape, const Way &way, int32_t max_terms) {
	const auto key = std::make_tuple(tiles_of(shape.rows), shape.wide, way.warps, way.split, max_terms);
	const auto known = resident_.find(key);
	if (known != resident_.end()) {
		return known->second;
	}
	const int64_t blocks = by_tiles(shape.rows, [&](auto k) { return k.resident(cut_of(s, way.warps, way.split), shape.wide, max_terms, s.context->info.processors); });
	return resident_[key] = blocks;
}

bool DecodeProducts::run(ch_stream &s, const Shape &shape, const Operands &o, int32_t slot) {
	if (shape.rows > kMostRows || (slot && s.slot_terms > kMostTerms)) {
		return false;
	}
	std::lock_guard<std::mutex> lock(mu_);
	const Way way = find(s, shape, o);
	if (way.warps == 0 || (tune_ && way.us > library_us(s, shape, o) + (slot ? kLaunchesUs : 0))) {
		return false;
	}
	DecodeArgs args = arguments(s, shape, o);
	const Cut cut = cut_of(s, way.warps, way.split);
	if (slot) {
		const LoraSlot terms = lora_slot(s, slot);
		args.terms = terms.terms, args.count = terms.count, args.max_terms = s.slot_terms;
		args.scratch = static_cast<char *>(s.lora_scratch);
	}
	if (!by_tiles(shape.rows, [&](auto k) { return serves<typename decltype(k)::S>(shape.out, shape.in, cut, slot != 0); })) {
		return false;
	}
	check(start(s, shape, args, cut), "product of decode rows");
	return true;
}

float DecodeProducts::library_us(ch_stream &s, const Shape &shape, const Operands &o) {
	const auto known = library_times_.find(shape);
	if (known != library_times_.end()) {
		return known->second;
	}
	const Noise noise(s.cuda, static_cast<size_t>(shape.out) * shape.in * 2, o.w);
	const int repeats = std::max<int>(8, static_cast<int>(noise.size()));
	const float ms = noise.measure(repeats, 2, [&](const void *w) {
		library_.run(s.cuda, shape, {o.x, w, o.bias, o.y, o.workspace});
		return true;
	});
	return library_times_[shape] = ms * 1000 / repeats;
}

DecodeProducts::Way DecodeProducts::find(ch_stream &s, const Shape &shape, const Operands &o) {
	const Key key = {tiles_of(shape.rows), shape.out, shape.in, shape.wide};
	const auto known = ways_.find(key);
	return known != ways_.end() ? known->second : ways_[key] = choose(s, shape, o);
}

// choose measures the ways that keep most of the device busy. Without measuring
// it takes the one that reads x the fewest times.
DecodeProducts::Way DecodeProducts::choose(ch_stream &s, const Shape &shape, const Operands &o) {
	std::vector<Way> ways;
	const int32_t terms = std::min(kMostTerms, std::max<int32_t>(s.slot_terms, 256)), processors = s.context->info.processors;
	for (int warps = kMostWarps; warps > 0; warps--) {
		for (int split = 1; split <= kMostSplit; split++) {
			const Way way = {warps, split, 0};
			const Cut cut = cut_of(s, warps, split);
			const int64_t blocks = blocks_of(shape.out, cut), most = resident(s, shape, way, terms);
			const bool fits = by_tiles(shape.rows, [&](auto k) { return serves<typename decltype(k)::S>(shape.out, shape.in, cut, true); });
			if (fits && most > 0 && (blocks <= most) && (blocks >= processors * 2 / 3 || !tune_)) {
				ways.push_back(way);
			}
		}
	}
	if (ways.empty()) {
		return {};
	}
	if (!tune_) {
		return ways[0];
	}
	const Noise noise(s.cuda, static_cast<size_t>(shape.out) * shape.in * 2, o.w);
	const auto measure = [&](Way &way, int repeats, int runs) {
		DecodeArgs args = arguments(s, shape, o);
		const float ms = noise.measure(repeats, runs, [&](const void *w) {
			args.w = static_cast<const decode::bf16 *>(w);
			return start(s, shape, args, cut_of(s, way.warps, way.split)) == cudaSuccess;
		});
		way.us = ms < 0 ? 1e9f : ms * 1000 / repeats;
	};
	const auto faster = [](const Way &a, const Way &b) { return a.us < b.us; };
	for (Way &way : ways) {
		measure(way, 12, 1);
	}
	std::sort(ways.begin(), ways.end(), faster);
	ways.resize(std::min<size_t>(ways.size(), kFinalists));
	for (Way &way : ways) {
		measure(way, std::max<int>(12, static_cast<int>(noise.size())), 2);
	}
	return *std::min_element(ways.begin(), ways.end(), faster);
}

} // namespace chorale
