//go:build cgo && linux && amd64

#pragma GCC target("avx2,fma,f16c")
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "vec256.h"
#include "vecmath.h"

#define MR_MAX 5
#define MR_WIDE 2
#define SHRINK_MR 1
#define QK_TILES 1
#define PV_VECTORS 1
#define NAME(x) ck_avx2_##x
#include "sets.h"

const ck_set ck_avx2 = SET("avx2", bf16, 0, ck_avx2_bf16_linear, 0);
const ck_set ck_avx2_f32 = SET("avx2", f32, 1, ck_avx2_f32_linear, 0);

extern const ck_set ck_avx512f32, ck_avx512f32_f32, ck_avx512bf16, ck_amxbf16;
const ck_set *const ck_sets[] = {&ck_amxbf16, &ck_avx512bf16, &ck_avx512f32, &ck_avx512f32_f32, &ck_avx2, &ck_avx2_f32, 0};
