// Products with weights, through cuBLASLt: y [rows, out] = x [rows, in] w^T.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "cublaslt.h"

namespace chorale {

// Shape of a product; all are multiples of 8 but rows. Rows of x and y are `in`
// and `out` elements apart.
struct Shape {
	int32_t rows, out, in;
	bool wide; // y is float32
	bool bias;
	bool operator<(const Shape &o) const { return std::tie(rows, out, in, wide, bias) < std::tie(o.rows, o.out, o.in, o.wide, o.bias); }
};

struct Operands {
	const void *x, *w, *bias; // bias is of y's type
	void *y;
	void *workspace; // kProductWorkspace bytes
};

constexpr size_t kProductWorkspace = 64 << 20;

struct ProductOptions {
	bool deterministic; // one kernel per weight shape, whatever the rows
	bool tune;          // measure kernels at a shape's first use
	std::string cache;  // file of measurements; empty for none
};

// Products chooses kernels and runs them. Safe for several threads.
class Products {
  public:
	Products(const cublaslt::Library &library, ProductOptions options);
	~Products();
	Products(const Products &) = delete;
	Products &operator=(const Products &) = delete;

	// run starts a product. The first of a shape may measure, so it must not be
	// part of a recording; known says whether that is over.
	void run(cudaStream_t stream, const Shape &shape, const Operands &o);

  private:
	// Plan is a product made ready.
	struct Plan {
		cublaslt::Desc desc = nullptr;
		cublaslt::Layout w = nullptr, x = nullptr, y = nullptr;
		cublaslt::Algo algo = {};
	};

	Plan prepare(const Shape &shape);
	void release(Plan &plan);
	Plan &find(cudaStream_t stream, const Shape &shape, const Operands &o);
	void choose(Plan &plan, cudaStream_t stream, const Shape &shape, const Operands &o);
	bool remembered(Plan &plan, const Shape &shape);
	std::vector<cublaslt::Heuristic> candidates(const Plan &plan, int most);
	cublaslt::Algo fastest(const Plan &plan, cudaStream_t stream, const Shape &shape, const Operands &o);
	float measure(const Plan &plan, const cublaslt::Algo &algo, cudaStream_t stream, const Operands &o, const std::vector<const void *> &weights, int repeats);
	int32_t start(const Plan &plan, const cublaslt::Algo &algo, cudaStream_t stream, const Operands &o, const void *w);
	bool fits(const Plan &plan, const cublaslt::Algo &algo);
	void require(int32_t status, const char *what, const Shape &shape);
	void recall();
	void remember(const Shape &shape, const cublaslt::Algo &algo);

	const cublaslt::Library &lib_;
	const ProductOptions options_;
	cublaslt::Handle handle_ = nullptr;
	std::mutex mu_;
	std::map<Shape, Plan> plans_;
	std::map<Shape, cublaslt::Algo> memory_;
};

} // namespace chorale
