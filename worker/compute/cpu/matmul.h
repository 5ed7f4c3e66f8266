// Matrix products. Results must not depend on the number of threads (DESIGN 2.3), so a product is
// cut into tiles of the output that its shape alone decides, each one a single-threaded OpenBLAS
// call.
#pragma once

#include <cstddef>
#include <string>

#include "common/base/thread_pool.h"

namespace mf {

enum class Transpose { kNo, kYes };

/// A row-major matrix; `stride` numbers from one stored row to the next.
struct MatrixView {
  const float* data = nullptr;
  size_t stride = 0;
  Transpose transpose = Transpose::kNo;
};

/// c [m][n] = alpha * op(a) [m][k] * op(b) [k][n] + beta * c.
struct Product {
  size_t m = 0;
  size_t n = 0;
  size_t k = 0;
  MatrixView a;
  MatrixView b;
  float* c = nullptr;
  size_t c_stride = 0;
  float alpha = 1;
  float beta = 0;
  /// One row of `a` as a vector: `b` is then read once and not packed, which would cost more than
  /// the product. The bits are others. More rows: as without it.
  bool as_vector = false;
};

/// One call, on the calling thread.
void Multiply(const Product& product);

/// Cut into tiles that run on `pool`.
void MultiplyTiled(const Product& product, ThreadPool& pool);

/// Whose products these are: the library, its version, and the processor that it has kernels for.
std::string MultiplyLibrary();

}  // namespace mf
