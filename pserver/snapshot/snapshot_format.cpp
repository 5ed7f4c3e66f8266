#include "pserver/snapshot/snapshot_format.h"

#include <bit>
#include <cstring>

#include "common/base/buffer.h"

namespace mf {
namespace {

// Snapshots are copied between machines: the bytes are those of a little-endian one.
static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kHasValLoss = 1, kDropped = 2;

Status WrongSize(const char* what, size_t bytes, size_t wanted) {
  return Status::Failed(std::string(what) + " of " + std::to_string(bytes) + " bytes instead of " +
                        std::to_string(wanted) +
                        ": not of this configuration; use the snapshots of this run");
}

}  // namespace

void EncodeRate(double lr, std::byte* out) { std::memcpy(out, &lr, kRateBytes); }

Result<double> DecodeRate(const std::byte* data, size_t bytes) {
  if (bytes != kRateBytes) return WrongSize("a rate", bytes, kRateBytes);
  return LoadUnaligned<double>(data, 0);
}

void EncodeRecord(const StepRecord& record, std::byte* out) {
  const double numbers[4] = {record.loss, record.lr, record.grad_norm, record.val_loss};
  const uint32_t flags = (record.has_val_loss ? kHasValLoss : 0) | (record.dropped ? kDropped : 0);
  std::memcpy(out, numbers, sizeof(numbers));
  std::memcpy(out + sizeof(numbers), &flags, sizeof(flags));
}

Result<StepRecord> DecodeRecord(uint64_t step, const std::byte* data, size_t bytes) {
  if (bytes != kRecordBytes) return WrongSize("a record", bytes, kRecordBytes);
  const auto flags = LoadUnaligned<uint32_t>(data + 4 * sizeof(double), 0);
  return StepRecord{.step = step,
                    .loss = LoadUnaligned<double>(data, 0),
                    .lr = LoadUnaligned<double>(data, 1),
                    .grad_norm = LoadUnaligned<double>(data, 2),
                    .val_loss = LoadUnaligned<double>(data, 3),
                    .has_val_loss = (flags & kHasValLoss) != 0,
                    .dropped = (flags & kDropped) != 0};
}

std::string SpaceName(uint32_t space) {
  if (space == kRateSpace) return "rates";
  if (space == kRecordSpace) return "records";
  if (space >= kFirstWaitingSpace)
    return "keys that wait of tensor " + std::to_string(space - kFirstWaitingSpace);
  return "tensor " + std::to_string(space);
}

}  // namespace mf
