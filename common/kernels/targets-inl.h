// The instruction sets that the kernels are compiled for. Include before hwy/foreach_target.h.
//
// Sums are fused multiply-adds with a lane structure of 16 floats, so a target without FMA (all of
// x86 below AVX2) or with a vector length that is not known at compile time (SVE, RVV) would give
// other bits. What is enabled gives the same: AVX-512, AVX2, NEON, and the one-lane fallback
// (std::fma; slow, but a CPU without AVX2 still computes the same model).
//
// What is enabled is listed, not what is left out: every version of Highway adds targets (1.0.7
// SSE2, which is even the baseline of x86-64; 1.2 NEON_BF16; Sapphire Rapids, Zen 4), which would
// come in unasked. The kernels use nothing that those have, and would be compiled once more for
// each.
#ifndef MF_COMMON_KERNELS_TARGETS_INL_H_
#define MF_COMMON_KERNELS_TARGETS_INL_H_

// Compilers disagree about the fallback (four emulated lanes or one): always the one that is
// tested.
#define HWY_BROKEN_EMU128 1

// From HWY_NEON up to Arm's last bit: NEON with AES and, where Highway knows it apart, without.
#define HWY_DISABLED_TARGETS \
  (~(HWY_AVX3 | HWY_AVX2 | HWY_SCALAR | ((2LL << HWY_HIGHEST_TARGET_BIT_ARM) - HWY_NEON)))

#endif  // MF_COMMON_KERNELS_TARGETS_INL_H_
