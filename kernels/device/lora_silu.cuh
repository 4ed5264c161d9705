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

// Segment is a run of rows with the same adapter, or with none.
struct Segment {
	int32_t row0, rows;
	const ch_lora_term *gate, *up; // null where not adapted
};

// leads says whether term i is the first of its rows.
__device__ __forceinline__ bool leads(const SiluArgs &p, int32_t i) {
	return i == 0 || p.terms[i].row0 != p.terms[i - 1].row0 || p.terms[i].rows != p.terms[i - 1].rows;
}

// gap_before returns the rows without adapters before term i (n: after all).
__device__ __forceinline__ Segment gap_before(const SiluArgs &p, int32_t i, int32_t n) {
	const int32_t begin = i == 0 ? 0 : p.terms[i - 1].row0 + p.terms[i - 1].rows;
	const int32_t end = i == n ? p.rows : p.terms[i].row0;
	return {begin, end - begin, nullptr, nullptr};
}

// segment_of returns the rows that term i leads.
__device__ __forceinline__ Segment segment_of(const SiluArgs &p, int32_t i, int32_t n) {
	Segment s{p.terms[i].row0, p.terms[i].rows, nullptr, nullptr};
	for (int32_t j = i; j < n && (j == i || !leads(p, j)); j++) {
		(p.terms[j].col == 0 ? s.gate : s.up) = p.terms + j;
	}
	return s;
}

// adapted returns kN row tiles of one half's columns with its adapter added.
template <int kN>
__device__ __forceinline__ void adapted(Cols (&out)[kN][2], const SiluArgs &p, const Segment &s, const ch_lora_term *term, int32_t half, int32_t col, int32_t tile, int32_t last, bool whole) {
	const int quad = threadIdx.x & 3, width = min(8, p.inter - col);
	const bf16 *y0 = p.y + static_cast<int64_t>(s.row0) * p.ldy + half + col;
	RawCols<bf16> y[kN][2];
#pragma unroll
	for (int i = 0; i < 2 * kN; i++) {
		const int32_t row = (tile + i / 2) * kTileRows + quad * 2 + i % 2;
		y[i / 2][i % 2] = load_cols(y0 + static_cast<int64_t>(row) * p.ldy, row < s.rows ? width : 0, whole && row < s.rows);
	}
	if (!term) {
#pragma unroll
		for (int i = 0; i < 2 * kN; i++) {
			out[i / 2][i % 2] = y[i / 2][i % 2].wide();
		}
		return;
	}
	const ch_lora_term t = *term;
	Delta<kN> delta;
	delta.clear();
	if (true_rank(t) > 0) {
		BBlock b;
		b.load(t, col, 0);
		delta.run(t, p.scratch, col, tile, tile + kN < last ? tile + kN : last, b);
	}
	const Cols bias = load_cols(t.bias + col, t.bias ? width : 0, false).wide();
#pragma unroll
	for (int i = 0; i < 2 * kN; i++) {
		const Cols d = delta.cols(i / 2, i % 2), base = y[i / 2][i % 2].wide();
#pragma unroll
		for (int c = 0; c < 8; c++) {
			out[i / 2][i % 2].v[c] = base.v[c] + (d.v[c] + bias.v[c]);
		}
	}
}

template <int kN> __device__ __forceinline__ void silu_tiles(const SiluArgs &p, const Segment &s, int32_t col, int32_t tile, int32_t last) {
	const int quad = threadIdx.x & 3, width = min(8, p.inter - col);
	const bool whole = width == 8 && ((p.ldy | p.ldact | p.inter) & 7) == 0;
	Cols gate[kN][2], up[kN][2];
	adapted<kN>(gate, p, s, s.gate, 0, col, tile, last, whole);
	adapted<kN>(up, p, s, s.up, p.inter, col, tile, last, whole);
#pragma unroll
	for (int i = 0; i < 2 * kN; i++) {
		const int32_t row = (tile + i / 2) * kTileRows + quad * 2 + i % 2;
		Cols a;
#pragma unroll
		for (int c = 0; c < 8; c++) {
			const float g = gate[i / 2][i % 2].v[c];
			a.v[c] = g / (1 + __expf(-g)) * up[i / 2][i % 2].v[c];
		}
		store_cols(p.act + static_cast<int64_t>(s.row0 + row) * p.ldact + col, a, row < s.rows ? width : 0, whole && row < s.rows);
	}
}

// An item of work index i (0 .. n) is a tile of the gap before term i or of
// the rows that term i leads.
template <int kRowTiles> __global__ void __launch_bounds__(kExpandThreads, 3) expand_silu_kernel(SiluArgs p) {
	extern __shared__ int32_t storage[];
	const int32_t n = min(*p.count, p.max_terms), across = col_items(p.inter);
	const WorkList work = make_work_list<kExpandThreads>(storage, n + 1, [&](int32_t i) {
		if (i < n && !leads(p, i)) {
			return 0;
		}
		const int32_t own = i < n ? row_items<kRowTiles>(p.terms[i].rows) : 0;
		return across * (row_items<kRowTiles>(gap_before(p, i, n).rows) + own);
	});
	wait_for_previous();
	let_next_begin();
	int32_t at = 0;
	for (int32_t item = blockIdx.x; item < work.items(); item += gridDim.x) {
		at = work.term_of(item, at);
		int32_t index = item - work.first[at];
		Segment s = gap_before(p, at, n);
		const int32_t gap = across * row_items<kRowTiles>(s.rows);
		if (index >= gap) {
			index -= gap;
			s = segment_of(p, at, n);
		}
		const int32_t col = index % across * kBlockCols + lane_col();
		const int32_t begin = index / across * kRowTiles, last = min(row_tiles(s.rows), begin + kRowTiles);
		for (int32_t tile = begin; tile < last; tile += 2) {
			if (tile + 1 < last) {
				silu_tiles<2>(p, s, col, tile, last);
			} else {
				silu_tiles<1>(p, s, col, tile, last);
			}
		}
	}
}

} // namespace chorale::lora
