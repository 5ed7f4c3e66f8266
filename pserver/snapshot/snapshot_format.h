// The entries of a server's snapshot, byte by byte; all numbers are little-endian.
//   space = tensor id, id = global row   a row of pserver/table/row_format.h
//   kFirstWaitingSpace + tensor id, id = global row
//                                        of a key that waits for a row: u32 hits, u32 applied step
//   kRateSpace, id = applied step >= 1   f64 learning rate
//   kRecordSpace, id = step              a StepRecord: f64 loss, lr, grad_norm, val_loss, u32 flags
//                                        (1: has val_loss, 2: dropped); shard 0 only
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/base/status.h"
#include "common/net/step.h"
#include "pserver/table/row_format.h"

namespace mf {

/// From here on are keys that wait, below are rows.
inline constexpr uint32_t kFirstWaitingSpace = 0x80000000;
/// Spaces from here on hold a few bytes a step.
inline constexpr uint32_t kFirstStepSpace = 0xFFFFFFF0;
inline constexpr uint32_t kRateSpace = 0xFFFFFFF0;
inline constexpr uint32_t kRecordSpace = 0xFFFFFFF1;
inline constexpr size_t kRateBytes = 8;
inline constexpr size_t kRecordBytes = 36;

void EncodeRate(double lr, std::byte* out);
Result<double> DecodeRate(const std::byte* data, size_t bytes);

void EncodeRecord(const StepRecord& record, std::byte* out);
/// record.step is the entry's id.
Result<StepRecord> DecodeRecord(uint64_t step, const std::byte* data, size_t bytes);

/// "tensor 3", "rates" or "records", for messages and tables.
std::string SpaceName(uint32_t space);

}  // namespace mf
