// Functions of device code that concern one thread alone. Atomics are plain: threads take turns.
// There is no atomicAdd of floats: the backend's results do not depend on an order.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline unsigned __brev(unsigned x) {
  unsigned out = 0;
  for (int bit = 0; bit < 32; ++bit) out |= (x >> bit & 1u) << (31 - bit);
  return out;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }

// Macros, because the C library declares functions of these names.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)

#define MF_EMULATED_MIN_MAX(type)                           \
  inline type min(type a, type b) { return b < a ? b : a; } \
  inline type max(type a, type b) { return a < b ? b : a; }
MF_EMULATED_MIN_MAX(int)
MF_EMULATED_MIN_MAX(unsigned)
MF_EMULATED_MIN_MAX(long)
MF_EMULATED_MIN_MAX(unsigned long)
MF_EMULATED_MIN_MAX(long long)
MF_EMULATED_MIN_MAX(unsigned long long)
#undef MF_EMULATED_MIN_MAX
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T>
void __stcs(T* to, T value) {
  *to = value;
}
template <class T>
void __stcg(T* to, T value) {
  *to = value;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// Each type of CUDA has its own overload, so that arguments convert as they do there.
#define MF_EMULATED_ATOMIC(name, type, result) \
  inline type name(type* at, type value) {     \
    const type before = *at;                   \
    *at = (result);                            \
    return before;                             \
  }
#define MF_EMULATED_ATOMICS(type)                                      \
  MF_EMULATED_ATOMIC(atomicAdd, type, before + value)                  \
  MF_EMULATED_ATOMIC(atomicMax, type, before < value ? value : before) \
  MF_EMULATED_ATOMIC(atomicMin, type, value < before ? value : before) \
  MF_EMULATED_ATOMIC(atomicOr, type, before | value)                   \
  MF_EMULATED_ATOMIC(atomicAnd, type, before& value)                   \
  MF_EMULATED_ATOMIC(atomicXor, type, before ^ value)                  \
  MF_EMULATED_ATOMIC(atomicExch, type, value)                          \
  inline type atomicCAS(type* at, type expected, type value) {         \
    const type before = *at;                                           \
    if (before == expected) *at = value;                               \
    return before;                                                     \
  }
MF_EMULATED_ATOMICS(int)
MF_EMULATED_ATOMICS(unsigned)
MF_EMULATED_ATOMICS(unsigned long long)
MF_EMULATED_ATOMIC(atomicSub, int, before - value)
MF_EMULATED_ATOMIC(atomicSub, unsigned, before - value)
#undef MF_EMULATED_ATOMICS
#undef MF_EMULATED_ATOMIC
