// Expand fused with the gated activation that follows it in an MLP:
//
//	act = silu(gate + v_gate b_gate^T) * (up + v_up b_up^T)
//
// It replaces the plain activation where adapters are, so their change of
// gate|up is never written to memory and read back. Sums stay in float32 up to
// the one rounding of act.
#pragma once

#include "lora_expand.cuh"

namespace chorale::lora {

struct SiluArgs {
	const ch_lora_term *terms; // ascending in row0; those of one adapter side by side
	const int32_t *count;
	int32_t max_terms;
	const void *scratch;
	const bf16 *y; // [T, ldy], gate in columns 0 .. inter-1, up in the next inter
	bf16 *act;     // [T, ldact]
	int32_t ldy, ldact, rows, inter;
};

// A warp owns 32 columns of gate and the same of up.
constexpr int kSiluCols = kBlockCols / 2;

struct SiluFew {
	static constexpr int kTiles = 1, kRowTiles = 2, kBlocksPerSM = 4;
};
struct SiluMany {
	static constexpr int kTiles = 2, kRowTiles = 4, kBlocksPerSM = 3;
};

// Segment is a run of rows with the same adapter, or with none.
struct Segment {
	int32_t row0, rows;
	const ch_lora_term *gate, *up; // null where not adapted
};

// gap_before returns the rows without adapters before term i (n: after all).
__device__ __forceinline__ Segment gap_before(const SiluArgs &p, int32_t i, int32_t n) {
	const int32_t begin = i == 0 ? 0 : p.terms[i - 1].row0 + p.terms[i - 1].rows;
	const int32_t end = i == n ? p.rows : p.terms[i].row0;
	return {begin, end - begin, nullptr, nullptr};
}

// segment_of returns the rows that term i leads.
__device__ __forceinline__ Segment segment_of(const SiluArgs &p, int32_t i, int32_t n) {
	Segment s{p.terms[i].row0, p.terms[i].rows, nullptr, nullptr};
	for (int32_t j = i; j < n && (j == i || !leads(p.terms, j)); j++) {
		(p.terms[j].col == 0 ? s.gate : s.up) = p.terms + j;
	}
	return s;
}

// Half is one lane's part of gate or up: 4 neighbouring columns of kN row tiles.
template <int kN> struct Half {
	const ch_lora_term *term; // null where not adapted
	int32_t blocks;
	BBlock<4> b;
	VBlock<kN> v;
	Delta<4, kN> delta;

	// begin fetches the first weights, which need not wait for v and y.
	__device__ __forceinline__ void begin(const ch_lora_term *t, int32_t col) {
		term = t;
		blocks = t ? rank_blocks(true_rank(*t)) : 0;
		delta.clear();
		if (blocks > 0) {
			b.load(*t, col, 0);
		}
	}
	__device__ __forceinline__ void load(const void *scratch, int32_t col, int32_t tile, int32_t last, int32_t index) {
		if (index < blocks) {
			v.load(*term, scratch, tile, last, index);
			if (index > 0) {
				b.load(*term, col, index);
			}
		}
	}
	__device__ __forceinline__ void add(int32_t index) {
		if (index < blocks) {
			delta.add(b, v, paired(*term, index));
		}
	}
	__device__ __forceinline__ float value(float base, int32_t col, int c, int n, int odd) const {
		const float bias = term && term->bias && col + c < term->out ? term->bias[col + c] : 0;
		return base + (delta.at(c, n, odd) + bias);
	}
};

// load4 and store4 move at most 4 columns of a row.
__device__ __forceinline__ uint2 load4(const bf16 *p, int n, bool whole) {
	uint2 w = make_uint2(0, 0);
	if (whole) {
		w = *reinterpret_cast<const uint2 *>(p);
	} else {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			if (i < n) {
				reinterpret_cast<bf16 *>(&w)[i] = p[i];
			}
		}
	}
	return w;
}

__device__ __forceinline__ float column(uint2 w, int c) {
	const float2 v = unpack(c < 2 ? w.x : w.y);
	return c % 2 ? v.y : v.x;
}

__device__ __forceinline__ void store4(bf16 *p, const float (&v)[4], int n, bool whole) {
	if (whole) {
		*reinterpret_cast<uint2 *>(p) = make_uint2(pack(v[0], v[1]), pack(v[2], v[3]));
		return;
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (i < n) {
			p[i] = __float2bfloat16_rn(v[i]);
		}
	}
}

// silu_tiles finishes kN row tiles of a warp's columns of act. waited says
// whether v and y may be read already.
template <int kN> __device__ __forceinline__ void silu_tiles(const SiluArgs &p, const Segment &s, int32_t col, int32_t tile, int32_t last, bool &waited) {
	const int quad = threadIdx.x & 3, width = min(4, p.inter - col);
	const bool whole = width == 4 && ((p.ldy | p.ldact | p.inter) & 3) == 0;
	Half<kN> gate, up;
	gate.begin(s.gate, col);
	up.begin(s.up, col);
	if (!waited) {
		wait_for_previous();
		waited = true;
	}
	uint2 g[kN * 2], u[kN * 2];
#pragma unroll
	for (int i = 0; i < 2 * kN; i++) {
		const int32_t row = (tile + i / 2) * kTileRows + quad * 2 + i % 2;
		const bf16 *y = p.y + static_cast<int64_t>(s.row0 + row) * p.ldy + col;
		g[i] = load4(y, row < s.rows ? width : 0, whole && row < s.rows);
		u[i] = load4(y + p.inter, row < s.rows ? width : 0, whole && row < s.rows);
	}
	for (int32_t i = 0; i < max(gate.blocks, up.blocks); i++) {
		gate.load(p.scratch, col, tile, last, i);
		up.load(p.scratch, col, tile, last, i);
		gate.add(i);
		up.add(i);
	}
#pragma unroll
	for (int i = 0; i < 2 * kN; i++) {
		const int32_t row = (tile + i / 2) * kTileRows + quad * 2 + i % 2;
		float act[4];
#pragma unroll
		for (int c = 0; c < 4; c++) {
			const float x = gate.value(column(g[i], c), col, c, i / 2, i % 2);
			act[c] = x / (1 + __expf(-x)) * up.value(column(u[i], c), col, c, i / 2, i % 2);
		}
		store4(p.act + static_cast<int64_t>(s.row0 + row) * p.ldact + col, act, row < s.rows ? width : 0, whole && row < s.rows);
	}
}

// An item of work index i (0 .. n) is a tile of the gap before term i or of
// the rows that term i leads.
template <class Shape> __global__ void __launch_bounds__(kExpandThreads, Shape::kBlocksPerSM) expand_silu_kernel(SiluArgs p) {
	extern __shared__ int32_t storage[];
	const int32_t n = term_count(p.terms, p.count, p.max_terms), across = (p.inter + kSiluCols - 1) / kSiluCols;
	let_next_begin();
	const WorkList work = make_work_list<kExpandThreads>(storage, n + 1, [&](int32_t i) {
		if (i < n && !leads(p.terms, i)) {
			return 0;
		}
		const int32_t own = i < n ? row_items<Shape::kRowTiles>(p.terms[i].rows) : 0;
		return across * (row_items<Shape::kRowTiles>(gap_before(p, i, n).rows) + own);
	});
	bool waited = false;
	int32_t at = 0;
	for (int32_t item = blockIdx.x; item < work.items(); item += gridDim.x) {
		at = work.term_of(item, at);
		int32_t index = item - work.first[at];
		Segment s = gap_before(p, at, n);
		const int32_t gap = across * row_items<Shape::kRowTiles>(s.rows);
		if (index >= gap) {
			index -= gap;
			s = segment_of(p, at, n);
		}
		const int32_t col = index % across * kSiluCols + lane_col() / 2;
		const int32_t begin = index / across * Shape::kRowTiles, last = min(row_tiles(s.rows), begin + Shape::kRowTiles);
		for (int32_t tile = begin; tile < last; tile += Shape::kTiles) {
			if (Shape::kTiles == 2 && tile + 1 < last) {
				silu_tiles<Shape::kTiles>(p, s, col, tile, last, waited);
			} else {
				silu_tiles<1>(p, s, col, tile, last, waited);
			}
		}
	}
	if (!waited) {
		wait_for_previous();
	}
}

} // namespace chorale::lora
