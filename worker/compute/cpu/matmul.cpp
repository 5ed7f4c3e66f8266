#include "worker/compute/cpu/matmul.h"

#include <cblas.h>
#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <new>

namespace mf {
namespace {

// A tile packs its share of both operands again, so large tiles are faster: by a quarter from
// 64 x 256 to 256 x 512 with AVX-512 kernels. But all cores should have some, so the largest is
// taken of which there are this many. Fixed, as tiles must depend on the shape only.
constexpr size_t kTilesAtLeast = 16;
// Widths are multiples of a vector, so that only the last tile of a row has a tail.
constexpr size_t kTileStep = 16;

struct TileSize {
  size_t rows;
  size_t columns;
};
constexpr TileSize kTileSizes[] = {{256, 512}, {256, 256}, {128, 256}, {64, 256}};

/// How many parts of about `wanted` numbers `size` has: at least one, none of them a sliver.
size_t Parts(size_t size, size_t wanted) {
  return std::max<size_t>(1, (size + wanted / 2) / wanted);
}

/// `size` over its parts, evenly.
size_t PartOf(size_t size, size_t wanted) {
  const size_t parts = Parts(size, wanted);
  const size_t even = (size + parts - 1) / parts;
  return (even + kTileStep - 1) / kTileStep * kTileStep;
}

TileSize TileOf(size_t m, size_t n) {
  TileSize size = std::end(kTileSizes)[-1];
  for (const TileSize& larger : kTileSizes) {
    if (Parts(m, larger.rows) * Parts(n, larger.columns) < kTilesAtLeast) continue;
    size = larger;
    break;
  }
  return {PartOf(m, size.rows), PartOf(n, size.columns)};
}

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

/// OpenBLAS takes memory for packed tiles when a thread has none of it free, and tries for ever if
/// the system refuses it. So it is seen to be there, once for each thread.
void CheckTileMemory() {
  constexpr size_t kBytes = size_t{128} << 20;  // of address space: pages that are used cost memory
  static thread_local bool seen = false;
  if (seen) return;
  void* const memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  munmap(memory, kBytes);
  seen = true;
}

}  // namespace

void Multiply(const Product& p) {
  UseOneThread();
  CheckTileMemory();
  if (p.as_vector && p.m == 1 && p.a.transpose == Transpose::kNo) {
    const bool across = p.b.transpose == Transpose::kYes;  // b is stored as [n][k]
    cblas_sgemv(CblasRowMajor, across ? CblasNoTrans : CblasTrans,
                static_cast<blasint>(across ? p.n : p.k), static_cast<blasint>(across ? p.k : p.n),
                p.alpha, p.b.data, static_cast<blasint>(p.b.stride), p.a.data, 1, p.beta, p.c, 1);
    return;
  }
  cblas_sgemm(CblasRowMajor, Flag(p.a), Flag(p.b), static_cast<blasint>(p.m),
              static_cast<blasint>(p.n), static_cast<blasint>(p.k), p.alpha, p.a.data,
              static_cast<blasint>(p.a.stride), p.b.data, static_cast<blasint>(p.b.stride), p.beta,
              p.c, static_cast<blasint>(p.c_stride));
}

void MultiplyTiled(const Product& p, ThreadPool& pool) {
  const TileSize size = TileOf(p.m, p.n);
  const size_t down = (p.m + size.rows - 1) / size.rows;
  const size_t across = (p.n + size.columns - 1) / size.columns;
  pool.ParallelFor(down * across, [&](size_t i, int) {
    const size_t row = i % down * size.rows;
    const size_t column = i / down * size.columns;
    Product tile = p;
    tile.m = std::min(size.rows, p.m - row);
    tile.n = std::min(size.columns, p.n - column);
    tile.a.data = At(p.a, row, 0);
    tile.b.data = At(p.b, 0, column);
    tile.c = p.c + row * p.c_stride + column;
    Multiply(tile);
  });
}

std::string MultiplyLibrary() {
  const std::string config = openblas_get_config(), core = openblas_get_corename();
  return config.find(core) == std::string::npos ? config + " " + core : config;
}

}  // namespace mf
