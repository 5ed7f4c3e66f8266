// CUDA's small vectors, with CUDA's alignment, and dim3.
#pragma once

#define MF_EMULATED_VECTOR2(name, type, alignment) \
  struct alignas(alignment) name {                 \
    type x, y;                                     \
  };                                               \
  inline name make_##name(type x, type y) { return {x, y}; }

#define MF_EMULATED_VECTOR3(name, type) \
  struct name {                         \
    type x, y, z;                       \
  };                                    \
  inline name make_##name(type x, type y, type z) { return {x, y, z}; }

#define MF_EMULATED_VECTOR4(name, type, alignment) \
  struct alignas(alignment) name {                 \
    type x, y, z, w;                               \
  };                                               \
  inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }

MF_EMULATED_VECTOR2(char2, signed char, 2)
MF_EMULATED_VECTOR2(uchar2, unsigned char, 2)
MF_EMULATED_VECTOR2(short2, short, 4)
MF_EMULATED_VECTOR2(ushort2, unsigned short, 4)
MF_EMULATED_VECTOR2(int2, int, 8)
MF_EMULATED_VECTOR2(uint2, unsigned, 8)
MF_EMULATED_VECTOR2(float2, float, 8)
MF_EMULATED_VECTOR2(double2, double, 16)
MF_EMULATED_VECTOR2(longlong2, long long, 16)
MF_EMULATED_VECTOR2(ulonglong2, unsigned long long, 16)
MF_EMULATED_VECTOR3(int3, int)
MF_EMULATED_VECTOR3(uint3, unsigned)
MF_EMULATED_VECTOR3(float3, float)
MF_EMULATED_VECTOR4(char4, signed char, 4)
MF_EMULATED_VECTOR4(uchar4, unsigned char, 4)
MF_EMULATED_VECTOR4(short4, short, 8)
MF_EMULATED_VECTOR4(ushort4, unsigned short, 8)
MF_EMULATED_VECTOR4(int4, int, 16)
MF_EMULATED_VECTOR4(uint4, unsigned, 16)
MF_EMULATED_VECTOR4(float4, float, 16)

#undef MF_EMULATED_VECTOR2
#undef MF_EMULATED_VECTOR3
#undef MF_EMULATED_VECTOR4

struct dim3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
  constexpr dim3(uint3 size) : x(size.x), y(size.y), z(size.z) {}
};

// Where the running thread is. Plain variables: one thread of one block runs at a time, and the
// scheduler sets them before it goes on with a thread.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;
