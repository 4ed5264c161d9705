//go:build cgo && linux && amd64

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")
#include "kernels.h"
#include "vec512.h"

#define MR_MAX 12
#define MR_WIDE 12
#define SHRINK_MR 4
#define DOTS
#define ST ST_DOT
#define SETNAME(x) ck_dot_##x
#include "linear.h"
#include "linear_set.h"
