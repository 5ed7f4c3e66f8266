// nvcuda::wmma for the emulated GPU (see cuda_runtime.h): products of 16 x 16 x 8 with TF32 inputs,
// which are not rounded here. A fragment is spread over the lanes of its warp in a way that is none
// of a real GPU's, since code may not depend on one.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

namespace nvcuda::wmma {

struct row_major;
struct col_major;
struct matrix_a;
struct matrix_b;
struct accumulator;
namespace precision {
struct tf32;
}
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int m, int n, int k, class T, class Layout = void>
class fragment;

template <int count>
struct FragmentBase {
  static constexpr int num_elements = count;
  static constexpr int num_storage_elements = count;
  float x[count];
};

template <class Layout>
class fragment<matrix_a, 16, 16, 8, precision::tf32, Layout> : public FragmentBase<4> {};
template <class Layout>
class fragment<matrix_b, 16, 16, 8, precision::tf32, Layout> : public FragmentBase<4> {};
template <>
class fragment<accumulator, 16, 16, 8, float> : public FragmentBase<8> {};

using Accumulator = fragment<accumulator, 16, 16, 8, float>;

/// Matrix [rows][columns] between memory and the warp's fragments. All lanes meet and must say the
/// same; ends the program if not, or if `at` or `stride` are not aligned as a GPU wants it.
void LoadTile(float* x, int rows, int columns, const float* at, unsigned stride, bool by_rows);
void StoreTile(const float* x, int rows, int columns, float* at, unsigned stride, bool by_rows);
/// d = a b + c; all lanes meet.
void MultiplyTiles(float* d, const float* a, const float* b, const float* c);

inline float __float_to_tf32(float x) { return x; }

template <int count>
void fill_fragment(FragmentBase<count>& to, float value) {
  for (float& x : to.x) x = value;
}

template <class Layout>
void load_matrix_sync(fragment<matrix_a, 16, 16, 8, precision::tf32, Layout>& to, const float* from,
                      unsigned stride) {
  LoadTile(to.x, 16, 8, from, stride, std::is_same_v<Layout, row_major>);
}
template <class Layout>
void load_matrix_sync(fragment<matrix_b, 16, 16, 8, precision::tf32, Layout>& to, const float* from,
                      unsigned stride) {
  LoadTile(to.x, 8, 16, from, stride, std::is_same_v<Layout, row_major>);
}
inline void load_matrix_sync(Accumulator& to, const float* from, unsigned stride, layout_t layout) {
  LoadTile(to.x, 16, 16, from, stride, layout == mem_row_major);
}
inline void store_matrix_sync(float* to, const Accumulator& from, unsigned stride,
                              layout_t layout) {
  StoreTile(from.x, 16, 16, to, stride, layout == mem_row_major);
}

template <class LayoutA, class LayoutB>
void mma_sync(Accumulator& d, const fragment<matrix_a, 16, 16, 8, precision::tf32, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 8, precision::tf32, LayoutB>& b,
              const Accumulator& c) {
  MultiplyTiles(d.x, a.x, b.x, c.x);
}

}  // namespace nvcuda::wmma
