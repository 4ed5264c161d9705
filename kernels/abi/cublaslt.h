// The part of cuBLASLt that is used, loaded at run time: neither its 400 MB nor
// its headers are needed to build. Numbers are those of NVIDIA's documentation;
// they are the same in versions 12 and 13.
#pragma once

#include <cuda_runtime.h>
#include <library_types.h>

#include <cstddef>
#include <cstdint>

namespace chorale::cublaslt {

using Handle = void *;
using Desc = void *;
using Layout = void *;
using Preference = void *;

struct Algo {
	uint64_t data[8];
};

struct Heuristic {
	Algo algo;
	size_t workspace;
	int32_t state; // a status
	float waves;
	int32_t reserved[4];
};

constexpr int32_t kSuccess = 0;
constexpr int32_t kCompute32F = 68;
constexpr int32_t kOpT = 1;
constexpr int32_t kDescTransA = 3, kDescEpilogue = 7, kDescBiasPointer = 8, kDescBiasType = 26;
constexpr int32_t kEpilogueBias = 4;
constexpr int32_t kPreferWorkspace = 1, kPreferReductions = 3;

// Library holds the functions, by their names without the prefix.
struct Library {
	int32_t (*Create)(Handle *);
	int32_t (*Destroy)(Handle);
	size_t (*GetVersion)();
	const char *(*GetStatusString)(int32_t);
	int32_t (*MatmulDescCreate)(Desc *, int32_t compute, int32_t scale);
	int32_t (*MatmulDescDestroy)(Desc);
	int32_t (*MatmulDescSetAttribute)(Desc, int32_t, const void *, size_t);
	int32_t (*MatrixLayoutCreate)(Layout *, int32_t type, uint64_t rows, uint64_t cols, int64_t ld);
	int32_t (*MatrixLayoutDestroy)(Layout);
	int32_t (*MatmulPreferenceCreate)(Preference *);
	int32_t (*MatmulPreferenceDestroy)(Preference);
	int32_t (*MatmulPreferenceSetAttribute)(Preference, int32_t, const void *, size_t);
	int32_t (*MatmulAlgoGetHeuristic)(Handle, Desc, Layout, Layout, Layout, Layout, Preference, int, Heuristic *, int *);
	int32_t (*MatmulAlgoCheck)(Handle, Desc, Layout, Layout, Layout, Layout, const Algo *, Heuristic *);
	int32_t (*Matmul)(Handle, Desc, const void *alpha, const void *a, Layout, const void *b, Layout, const void *beta, const void *c, Layout, void *d, Layout, const Algo *, void *workspace, size_t, cudaStream_t);
};

// open loads the library from path, or from where it usually is when path is
// null. It is never unloaded. Throws Failure(CH_UNSUPPORTED).
const Library &open(const char *path);

} // namespace chorale::cublaslt
