//go:build cgo && linux && amd64

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "vec512.h"
#include "vecmath.h"

#define MR_MAX 12
#define MR_WIDE 12
#define SHRINK_MR 4
#define QK_TILES 2
#define PV_VECTORS 4
#define NAME(x) ck_avx512_##x
#include "sets.h"

const ck_set ck_avx512f32 = SET("avx512f32", bf16, 0, ck_avx512_bf16_linear, 0);
const ck_set ck_avx512f32_f32 = SET("avx512f32", f32, 1, ck_avx512_f32_linear, 0);
// VDPBF16PS and tiles change Linear only.
const ck_set ck_amxbf16 = SET("amxbf16", bf16, 0, ck_amx_linear, 1);
const ck_set ck_avx512bf16 = SET("avx512bf16", bf16, 0, ck_dot_linear, 1);
