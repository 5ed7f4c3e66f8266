#include "worker/backend/matmul.h"

#include <cblas.h>

#include <algorithm>

namespace mf {
namespace {

// A tile packs its share of both operands again, so it should be large; 64 x 256 keeps the packing
// below a tenth of the arithmetic and still gives small models a few tiles per core.
constexpr size_t kTileRows = 64;
constexpr size_t kTileColumns = 256;

/// The view that starts `row` rows and `column` columns further into op(matrix).
const float* At(const MatrixView& matrix, size_t row, size_t column) {
  if (matrix.transpose == Transpose::kYes) std::swap(row, column);
  return matrix.data + row * matrix.stride + column;
}

CBLAS_TRANSPOSE Flag(const MatrixView& matrix) {
  return matrix.transpose == Transpose::kYes ? CblasTrans : CblasNoTrans;
}

/// OpenBLAS would otherwise start threads of its own and cut sums by their number.
void UseOneThread() {
  static const bool once = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

void Multiply(const Product& p) {
  UseOneThread();
  cblas_sgemm(CblasRowMajor, Flag(p.a), Flag(p.b), static_cast<blasint>(p.m),
              static_cast<blasint>(p.n), static_cast<blasint>(p.k), p.alpha, p.a.data,
              static_cast<blasint>(p.a.stride), p.b.data, static_cast<blasint>(p.b.stride), p.beta,
              p.c, static_cast<blasint>(p.c_stride));
}

void MultiplyTiled(const Product& p, ThreadPool& pool) {
  const size_t down = (p.m + kTileRows - 1) / kTileRows;
  const size_t across = (p.n + kTileColumns - 1) / kTileColumns;
  pool.ParallelFor(down * across, [&](size_t i, int) {
    const size_t row = i % down * kTileRows;
    const size_t column = i / down * kTileColumns;
    Product tile = p;
    tile.m = std::min(kTileRows, p.m - row);
    tile.n = std::min(kTileColumns, p.n - column);
    tile.a.data = At(p.a, row, 0);
    tile.b.data = At(p.b, 0, column);
    tile.c = p.c + row * p.c_stride + column;
    Multiply(tile);
  });
}

}  // namespace mf
