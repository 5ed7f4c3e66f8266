// Between numbers as they are computed with and as they go over the wire: bf16, bucket indices, and
// the fixed-point dots of DESIGN 2.3. Wire bytes may have any alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace mf {

/// dst[i] = bf16 of src[i] (common/base/bf16.h), u16.
void PackBf16(void* dst, const float* src, size_t count);
/// dst[i] = the float that is bf16 src[i].
void UnpackBf16(float* dst, const void* src, size_t count);

/// dst[i] = bucket index src[i] of `index_bytes` (1, 2 or 4) bytes; returns all of them or-ed.
uint32_t WidenIndices(const void* src, int index_bytes, size_t count, uint32_t* dst);

/// values[p][t] = DotValue(AddDots over `parts`, exponents[t]) for i64 parts[s] [pairs][tokens], as
/// S servers answered them. `parts` is not empty.
void DotValues(std::span<const void* const> parts, size_t pairs, size_t tokens,
               const int8_t* exponents, float* values);

}  // namespace mf
