// Both storage types of one instruction set. NAME makes the set's names.

#define MAX_RANK 4096 // maxRank in pack.go

#include "linear.h"
#include "rows.h"
#include "cache.h"
#include "attention.h"

#define SETNAME(x) NAME(bf16_##x)
#define ST ST_BF16
#define F32 0
#include "linear_set.h"
#include "cache_set.h"
#include "attention_set.h"
#undef SETNAME
#undef ST
#undef F32

#define SETNAME(x) NAME(f32_##x)
#define ST ST_F32
#define F32 1
#include "linear_set.h"
#include "cache_set.h"
#include "attention_set.h"
#undef SETNAME
#undef ST
#undef F32

void ck_dot_linear(ck_pool *, ck_linear *); // in k_avx512bf16.c
void ck_amx_linear(ck_pool *, ck_linear *); // in k_amx.c

#define SET(set_name, type, is_f32, lin, rounded)                                                  \
	{                                                                                              \
		.name = set_name, .f32 = is_f32, .rounds = rounded, .linear = lin, .embed = NAME(type##_embed), \
		.norm = NAME(norm), .silu = NAME(silu), .rope = NAME(type##_rope), .attention = NAME(type##_attention), \
		.stats = NAME(stats), .round = NAME(round), .pack = NAME(type##_pack), .attention_lanes = QUERIES,     \
	}
