// The entries of a server's snapshot, byte by byte; all numbers are little-endian.
//   space = tensor id, id = global row   u32 updated_at, then planes x width float32: w (of bf16
//                                        tables the f32 behind), and for Adam m and v, for Adagrad
//                                        its sum of squares; the server's own columns, unpadded
//   kRateSpace, id = applied step >= 1   f64 learning rate
//   kRecordSpace, id = step              a StepRecord: f64 loss, lr, grad_norm, val_loss, u32 flags
//                                        (1: has val_loss, 2: dropped); shard 0 only
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/base/status.h"
#include "common/net/messages.h"

namespace mf {

/// Spaces from here on hold a few bytes a step; below are rows.
inline constexpr uint32_t kFirstStepSpace = 0xFFFFFFF0;
inline constexpr uint32_t kRateSpace = 0xFFFFFFF0;
inline constexpr uint32_t kRecordSpace = 0xFFFFFFF1;
inline constexpr size_t kRateBytes = 8;
inline constexpr size_t kRecordBytes = 36;

inline size_t RowBytes(int planes, size_t width) {
  return sizeof(uint32_t) + static_cast<size_t>(planes) * width * sizeof(float);
}

/// Where plane `p` of an encoded row stands, f32 of any alignment.
template <class Byte>
Byte* PlaneIn(Byte* row, int p, size_t width) {
  return row + sizeof(uint32_t) + static_cast<size_t>(p) * width * sizeof(float);
}

/// A row of `planes` x `width`; `plane[p]` points at its numbers, or is null: that plane is left to
/// the caller (PlaneIn). `out` has RowBytes().
void EncodeRow(uint32_t updated_at, const float* const* plane, int planes, size_t width,
               std::byte* out);
/// kFailed if `bytes` is not RowBytes().
Status DecodeRow(const std::byte* data, size_t bytes, int planes, size_t width,
                 uint32_t* updated_at, float* const* plane);

void EncodeRate(double lr, std::byte* out);
Result<double> DecodeRate(const std::byte* data, size_t bytes);

void EncodeRecord(const StepRecord& record, std::byte* out);
/// record.step is the entry's id.
Result<StepRecord> DecodeRecord(uint64_t step, const std::byte* data, size_t bytes);

/// "tensor 3", "rates" or "records", for messages and tables.
std::string SpaceName(uint32_t space);

}  // namespace mf
