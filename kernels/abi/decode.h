// Products of at most 64 rows by a kernel of ours, with the adapters inside.
#pragma once

#include <map>
#include <mutex>
#include <tuple>

#include "product.h"

struct ch_stream;

namespace chorale {

// DecodeProducts chooses how products are cut into blocks, and runs them where
// that is faster than cuBLASLt. Safe for several threads.
class DecodeProducts {
  public:
	DecodeProducts(Products &library, bool tune) : library_(library), tune_(tune) {}
	DecodeProducts(const DecodeProducts &) = delete;
	DecodeProducts &operator=(const DecodeProducts &) = delete;

	// run starts a linear layer, the terms of `slot` (plus 1; 0: none) included,
	// and returns true; or does nothing and returns false. The first of a shape may
	// measure, so it must not be part of a recording.
	bool run(ch_stream &s, const Shape &shape, const Operands &o, int32_t slot);

  private:
	// Way is how a product is cut; without warps it is not done here.
	struct Way {
		int warps, split;
		float us; // of a product; 0 where nothing was measured
	};
	// Ways depend on the number of tiles of 8 rows, not on the rows.
	using Key = std::tuple<int, int32_t, int32_t, bool>;

	Way find(ch_stream &s, const Shape &shape, const Operands &o);
	Way choose(ch_stream &s, const Shape &shape, const Operands &o);
	float library_us(ch_stream &s, const Shape &shape, const Operands &o);
	int64_t resident(const ch_stream &s, const Shape &shape, const Way &way, int32_t max_terms);

	Products &library_;
	const bool tune_;
	std::mutex mu_;
	std::map<Key, Way> ways_;
	std::map<Shape, float> library_times_;
	std::map<std::tuple<int, bool, int, int, int>, int64_t> resident_;
};

} // namespace chorale
