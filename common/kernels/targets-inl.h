// The instruction sets that the kernels are compiled for. Include before hwy/foreach_target.h.
//
// Sums are fused multiply-adds with a lane structure of 16 floats, so targets without FMA (SSSE3,
// SSE4) and targets whose vector length is not known at compile time (SVE, RVV) are left out. What
// remains gives the same bits: AVX-512, AVX2, NEON, and the one-lane fallback (std::fma; slow, but
// a CPU without AVX2 still computes the same model).
#ifndef MF_COMMON_KERNELS_TARGETS_INL_H_
#define MF_COMMON_KERNELS_TARGETS_INL_H_

// Compilers disagree about the fallback (four emulated lanes or one): always the one that is
// tested.
#define HWY_BROKEN_EMU128 1

#define HWY_DISABLED_TARGETS                                                                     \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | HWY_PPC8 | \
   HWY_WASM | HWY_WASM_EMU256)

#endif  // MF_COMMON_KERNELS_TARGETS_INL_H_
