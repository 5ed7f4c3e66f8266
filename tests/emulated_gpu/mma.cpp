#include "mma.h"

#include <cstdint>

namespace nvcuda::wmma {
namespace {

constexpr int kLanes = 32;
constexpr int kEdge = 16;
constexpr int kDepth = 8;

/// Element i of a matrix, counted by rows, is x[i / 32] of this lane: no simple pattern.
int LaneOf(int i) { return (i * 11 + i / kLanes * 5) % kLanes; }

struct Move {
  float* x;
  float* at;
  int rows;
  int columns;
  unsigned stride;
  bool by_rows;

  size_t Offset(int row, int column) const {
    const size_t r = static_cast<size_t>(row);
    const size_t c = static_cast<size_t>(column);
    return by_rows ? r * stride + c : c * stride + r;
  }
};

void CheckMove(const char* what, void* const* arguments) {
  const Move& first = *static_cast<const Move*>(arguments[0]);
  for (int lane = 1; lane < kLanes; ++lane) {
    const Move& other = *static_cast<const Move*>(arguments[lane]);
    if (other.at != first.at || other.stride != first.stride || other.rows != first.rows ||
        other.columns != first.columns || other.by_rows != first.by_rows) {
      mf::emulated_gpu::Fault("%s: lane %d names another matrix than lane 0", what, lane);
    }
  }
  if (reinterpret_cast<uintptr_t>(first.at) % 32 != 0) {
    mf::emulated_gpu::Fault("%s: the matrix at %p is not aligned to 32 bytes", what,
                            static_cast<void*>(first.at));
  }
  if (first.stride % 4 != 0) {
    mf::emulated_gpu::Fault("%s: the stride %u is not a multiple of 4", what, first.stride);
  }
}

void Load(unsigned, void* const* arguments) {
  CheckMove("load_matrix_sync", arguments);
  const Move& move = *static_cast<const Move*>(arguments[0]);
  for (int i = 0; i < move.rows * move.columns; ++i) {
    static_cast<Move*>(arguments[LaneOf(i)])->x[i / kLanes] =
        move.at[move.Offset(i / move.columns, i % move.columns)];
  }
}

void Store(unsigned, void* const* arguments) {
  CheckMove("store_matrix_sync", arguments);
  const Move& move = *static_cast<const Move*>(arguments[0]);
  for (int i = 0; i < move.rows * move.columns; ++i) {
    move.at[move.Offset(i / move.columns, i % move.columns)] =
        static_cast<const Move*>(arguments[LaneOf(i)])->x[i / kLanes];
  }
}

struct Product {
  float* d;
  const float* a;
  const float* b;
  const float* c;
};

void Multiply(unsigned, void* const* arguments) {
  float a[kEdge][kDepth];
  float b[kDepth][kEdge];
  float sum[kEdge][kEdge];
  const auto lane = [&](int i) { return static_cast<const Product*>(arguments[LaneOf(i)]); };
  for (int i = 0; i < kEdge * kDepth; ++i) {
    a[i / kDepth][i % kDepth] = lane(i)->a[i / kLanes];
    b[i / kEdge][i % kEdge] = lane(i)->b[i / kLanes];
  }
  for (int i = 0; i < kEdge * kEdge; ++i) sum[i / kEdge][i % kEdge] = lane(i)->c[i / kLanes];
  for (int row = 0; row < kEdge; ++row) {
    for (int step = 0; step < kDepth; ++step) {
      for (int column = 0; column < kEdge; ++column) {
        sum[row][column] += a[row][step] * b[step][column];
      }
    }
  }
  for (int i = 0; i < kEdge * kEdge; ++i) lane(i)->d[i / kLanes] = sum[i / kEdge][i % kEdge];
}

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

}  // namespace

void LoadTile(float* x, int rows, int columns, const float* at, unsigned stride, bool by_rows) {
  Move move{x, const_cast<float*>(at), rows, columns, stride, by_rows};
  mf::emulated_gpu::MeetLanes("load_matrix_sync", kAllLanes, &move, Load);
}

void StoreTile(const float* x, int rows, int columns, float* at, unsigned stride, bool by_rows) {
  Move move{const_cast<float*>(x), at, rows, columns, stride, by_rows};
  mf::emulated_gpu::MeetLanes("store_matrix_sync", kAllLanes, &move, Store);
}

void MultiplyTiles(float* d, const float* a, const float* b, const float* c) {
  Product product{d, a, b, c};
  mf::emulated_gpu::MeetLanes("mma_sync", kAllLanes, &product, Multiply);
}

}  // namespace nvcuda::wmma
