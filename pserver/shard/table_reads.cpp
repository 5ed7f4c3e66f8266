#include "pserver/shard/table_reads.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "common/kernels/wire.h"

namespace mf {
namespace {

constexpr uint64_t kBytesPerReply = 1ull << 30;

Status Bad(const std::string& what) { return Status::Invalid(what); }

Frame FromF32(const Buffer& values, size_t count, Wire wire) {
  if (wire == Wire::kF32) return values;
  Buffer buffer(count * sizeof(uint16_t));
  PackBf16(buffer.data(), values.as<float>(), count);
  return buffer;
}

}  // namespace

Result<TensorShard*> FindTensor(const RunDescription& run, ShardTables& tables, uint32_t id,
                                TensorKind kind) {
  if (id >= run.tensors.size()) {
    return Bad("tensor " + std::to_string(id) + " of " + std::to_string(run.tensors.size()));
  }
  if (tables.tensors.empty()) return Status(Code::kUnavailable, "waits for recovery");
  if (kind == TensorKind::kMemory && run.tensors[id].kind != kind) {
    return Bad(run.tensors[id].name + " is not a memory tensor");
  }
  return tables.tensors[id].get();
}

Status CheckFrame(const Frames& payload, size_t frame, uint64_t bytes, const char* name) {
  if (payload[frame].size() == bytes) return Status::Ok();
  return Bad(std::string(name) + " frame has " + std::to_string(payload[frame].size()) +
             " bytes, " + std::to_string(bytes) + " are due");
}

Status CheckFrames(const Frames& payload, size_t count) {
  if (payload.size() == count) return Status::Ok();
  return Bad(std::to_string(payload.size()) + " payload frames, " + std::to_string(count) +
             " are due");
}

Status CheckRows(const TensorLayout& layout, std::span<const uint64_t> rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!layout.Has(rows[i]) || (i > 0 && rows[i] <= rows[i - 1])) {
      return Bad("rows of " + layout.spec.name + " must rise and be this server's");
    }
  }
  return Status::Ok();
}

Status CheckUnnamed(const TensorSpec& spec) {
  if (spec.kind != TensorKind::kKeyed) return Status::Ok();
  return Bad("rows of the keyed tensor " + spec.name + " have to be named one by one");
}

std::span<const uint32_t> BucketsOf(const Buffer& buffer) {
  return {buffer.as<const uint32_t>(), buffer.size() / sizeof(uint32_t)};
}

Result<Buffer> ReadBuckets(const Frames& payload, uint32_t tokens, const RunRules& rules,
                           const TensorShard& tensor) {
  const TensorSpec& spec = tensor.layout().spec;
  // A micro-batch is the most that any message is about; evaluation uses no more.
  const uint64_t most = static_cast<uint64_t>(rules.tokens_per_micro_batch);
  if (tokens == 0 || tokens > most) {
    return Bad(std::to_string(tokens) + " tokens; 1 to " + std::to_string(most) + " are allowed");
  }
  const size_t count = tensor.pairs() * tokens;
  const int index_bytes = spec.index_bytes();
  MF_RETURN_IF_ERROR(CheckFrame(payload, 0, count * static_cast<size_t>(index_bytes), "index"));
  MF_RETURN_IF_ERROR(CheckFrame(payload, 1, count * sizeof(float), "weight"));
  Buffer buckets(count * sizeof(uint32_t));
  const uint32_t any = WidenIndices(payload[0].data(), index_bytes, count, buckets.as<uint32_t>());
  // rows is a power of two: one bit beyond it in any index is one index out of range.
  if (any >= static_cast<uint64_t>(spec.rows))
    return Bad("a bucket index of " + spec.name + " is out of range");
  return buckets;
}

Result<Frames> AnswerForward(const ForwardRequest& forward, const Frames& payload,
                             const RunDescription& run, ShardTables& tables) {
  MF_ASSIGN_OR_RETURN(TensorShard* const tensor,
                      FindTensor(run, tables, forward.tensor, TensorKind::kMemory));
  MF_RETURN_IF_ERROR(CheckFrames(payload, 2));
  MF_ASSIGN_OR_RETURN(const Buffer buckets,
                      ReadBuckets(payload, forward.tokens, run.rules, *tensor));
  const size_t count = forward.tokens * tensor->layout().width();
  const Buffer y(count * sizeof(float));
  tensor->Forward(BucketsOf(buckets), payload[1].data(), forward.tokens, IsTraining(forward.at),
                  tables.history, y.as<float>());
  return Frames{FromF32(y, count, run.rules.wire)};
}

Result<Frames> AnswerPull(const PullRequest& pull, const Frames& payload, const RunDescription& run,
                          ShardTables& tables) {
  MF_ASSIGN_OR_RETURN(TensorShard* const tensor,
                      FindTensor(run, tables, pull.tensor, TensorKind::kDense));
  MF_RETURN_IF_ERROR(CheckFrames(payload, 1));
  const TensorSpec& spec = tensor->layout().spec;
  const size_t width = tensor->layout().width();
  const Frame& ids = payload[0];
  const bool named = ids.size() > 0;
  const uint64_t count = named ? ids.size() / sizeof(uint64_t) : pull.row_count;
  if (ids.size() % sizeof(uint64_t) != 0 || count > kBytesPerReply / (width * sizeof(float))) {
    return Bad("pull of " + std::to_string(count) + " rows of " + spec.name);
  }
  if (!named && count > 0) {  // before memory is taken for them
    MF_RETURN_IF_ERROR(CheckUnnamed(spec));
    if (count > spec.total_rows() || pull.first_row > spec.total_rows() - count)
      return Bad("rows beyond the end of " + spec.name);
  }
  const Buffer list(count * sizeof(uint64_t));
  const std::span<uint64_t> rows(list.as<uint64_t>(), count);
  if (named) {
    std::memcpy(list.data(), ids.data(), ids.size());
    MF_RETURN_IF_ERROR(CheckRows(tensor->layout(), rows));
  } else {
    std::iota(rows.begin(), rows.end(), pull.first_row);
  }
  Buffer values(count * width * sizeof(float));
  tensor->Pull(rows, IsTraining(pull.at), tables.history, values.as<float>());
  return Frames{Frame(values)};
}

Result<Frames> AnswerListRows(const ListRowsRequest& list, const Frames& payload,
                              const RunDescription& run, ShardTables& tables) {
  MF_ASSIGN_OR_RETURN(TensorShard* const tensor,
                      FindTensor(run, tables, list.tensor, TensorKind::kDense));
  MF_RETURN_IF_ERROR(CheckFrames(payload, 0));
  const std::vector<uint64_t> rows =
      tensor->UpdatedRows(list.first_row, std::min(list.row_count, kListedRowsMax));
  Buffer buffer(rows.size() * sizeof(uint64_t));
  if (!rows.empty()) std::memcpy(buffer.data(), rows.data(), buffer.size());
  return Frames{Frame(buffer)};
}

}  // namespace mf
