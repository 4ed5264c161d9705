//go:build cgo && linux && amd64

#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")
#include <string.h>

#include "kernels.h"
#include "vec512.h"

#define MR_MAX 12
#define MR_WIDE 12
#define SHRINK_MR 4
#define ROW_STEP 32
#define DOTS
#define TILES
#define ST ST_DOT
#define SETNAME(x) ck_amx_##x
#include "linear.h"
#include "linear_set.h"
