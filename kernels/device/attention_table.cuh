// The plan of a step as the kernels read it.
#pragma once

#include <stdint.h>

namespace chorale::attention {

constexpr int kTileRows = 16;     // query rows of a tile of the rows kernel
constexpr int kPrefillRows = 128; // of the prefill kernel
constexpr int kBlock = 16;        // positions that are copied at once
constexpr int kFixedChunk = 512;  // positions of a chunk in deterministic mode

struct Header {
	int32_t items; // of the rows kernel, per virtual key head
	int32_t tiles;
	int32_t chunk; // positions
	int32_t prefill_tiles;
	int32_t reserved[12];
};

// Tile is up to 16 / group consecutive rows of one sequence. With `span` one
// item computes all chunks one after another, else there is an item per chunk.
struct Tile {
	int32_t row, tokens; // rows of the step
	int32_t pos;         // position of the first
	int32_t first_page;
	int32_t first_chunk, chunks;
	int32_t slot; // of its first part; a chunk takes tokens * heads parts
	int32_t span;
};

// PrefillTile is up to 128 / group consecutive rows of one sequence.
struct PrefillTile {
	int32_t row, tokens, pos, first_page;
};

// A running total of a tile: statistics and values of each row, by fours of
// channels.
constexpr int running_floats(int head_dim) { return kTileRows * head_dim / 4 * (2 + 4); }

constexpr int64_t align16(int64_t n) { return (n + 15) / 16 * 16; }

// Layout gives the offsets of a table's parts.
struct Layout {
	int64_t first_item, tiles, prefill, bytes;
	explicit constexpr Layout(int64_t rows)
		: first_item(sizeof(Header)), tiles(align16(first_item + 4 * (rows + 1))), prefill(tiles + sizeof(Tile) * rows), bytes(prefill + sizeof(PrefillTile) * rows) {}
};

// Groups says how the heads of one key head are shared out when they are more
// than a tile has rows: `split` virtual key heads of `size` heads each.
struct Groups {
	int32_t split, size;
	constexpr Groups(int32_t heads, int32_t kv_heads) : split(1), size(heads / kv_heads) {
		const int32_t all = size;
		while (size > kTileRows && split < all) {
			split++;
			size = all % split == 0 ? all / split : size;
		}
	}
};

} // namespace chorale::attention
