// Requests for tensors: what is checked of each before the tables see it.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

#include "common/kernels/wire.h"
#include "pserver/shard/shard_run.h"

namespace mf {
namespace {

constexpr uint64_t kBytesPerReply = 1ull << 30;

Status Bad(const std::string& what) { return Status::Invalid(what); }

Status CheckFrame(const Frames& payload, size_t frame, uint64_t bytes, const char* name) {
  if (payload[frame].size() == bytes) return Status::Ok();
  return Bad(std::string(name) + " frame has " + std::to_string(payload[frame].size()) +
             " bytes, " + std::to_string(bytes) + " are due");
}

std::span<const uint32_t> BucketsOf(const Buffer& buffer) {
  return {buffer.as<const uint32_t>(), buffer.size() / sizeof(uint32_t)};
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

/// Rows that are not named: all of a push, a run of a pull.
Status CheckUnnamed(const TensorSpec& spec) {
  if (spec.kind != TensorKind::kKeyed) return Status::Ok();
  return Bad("rows of the keyed tensor " + spec.name + " have to be named one by one");
}

/// f32 from a wire frame: itself, or unpacked from bf16.
Frame ToF32(const Frame& frame, size_t count, Wire wire) {
  if (wire == Wire::kF32) return frame;
  Buffer buffer(count * sizeof(float));
  UnpackBf16(buffer.as<float>(), frame.data(), count);
  return buffer;
}

Frame FromF32(const Buffer& values, size_t count, Wire wire) {
  if (wire == Wire::kF32) return values;
  Buffer buffer(count * sizeof(uint16_t));
  PackBf16(buffer.data(), values.as<float>(), count);
  return buffer;
}

}  // namespace

Status Shard::FindTensor(uint32_t id, TensorKind kind, TensorShard** tensor) {
  if (id >= run_->specs.size()) {
    return Bad("tensor " + std::to_string(id) + " of " + std::to_string(run_->specs.size()));
  }
  if (run_->tensors.empty()) return {Code::kUnavailable, "waits for recovery"};
  *tensor = run_->tensors[id].get();
  if (kind == TensorKind::kMemory && run_->specs[id].kind != kind) {
    return Bad(run_->specs[id].name + " is not a memory tensor");
  }
  return Status::Ok();
}

/// u32 [pairs][tokens], all of them rows of the tensor.
Status Shard::ReadBuckets(const Frames& payload, uint32_t tokens, const TensorShard& tensor,
                          Buffer* buckets) {
  const TensorSpec& spec = tensor.layout().spec;
  // A micro-batch is the most that any message is about; evaluation uses no more.
  const uint64_t most = static_cast<uint64_t>(run_->rules.tokens_per_micro_batch);
  if (tokens == 0 || tokens > most) {
    return Bad(std::to_string(tokens) + " tokens; 1 to " + std::to_string(most) + " are allowed");
  }
  const size_t count = tensor.pairs() * tokens;
  const int index_bytes = spec.index_bytes();
  MF_RETURN_IF_ERROR(CheckFrame(payload, 0, count * static_cast<size_t>(index_bytes), "index"));
  MF_RETURN_IF_ERROR(CheckFrame(payload, 1, count * sizeof(float), "weight"));
  *buckets = Buffer(count * sizeof(uint32_t));
  const uint32_t any = WidenIndices(payload[0].data(), index_bytes, count, buckets->as<uint32_t>());
  // rows is a power of two: one bit beyond it in any index is one index out of range.
  if (any >= static_cast<uint64_t>(spec.rows))
    return Bad("a bucket index of " + spec.name + " is out of range");
  return Status::Ok();
}

/// Contributions that wait for earlier ones are bounded by the window, as the coordinator bounds
/// its leases.
Status Shard::CheckMicroBatch(uint32_t micro_batch, const TensorShard& tensor) const {
  if (micro_batch >= run_->micro_batches()) {
    return Bad("micro-batch " + std::to_string(micro_batch) + " of " +
               std::to_string(run_->micro_batches()));
  }
  if (micro_batch >= tensor.watermark() + static_cast<uint64_t>(run_->rules.window)) {
    return {Code::kNotYet, "micro-batch " + std::to_string(micro_batch) +
                               " is beyond the window of " + std::to_string(run_->rules.window)};
  }
  return Status::Ok();
}

Status Shard::Do(const ForwardRequest& forward, Call& call) {
  const Frames& payload = call.request.payload;
  call.reply.body = ForwardReply{};
  MF_RETURN_IF_ERROR(commit_.Admit(OpenStepOf(forward.at)));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(FindTensor(forward.tensor, TensorKind::kMemory, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(payload, 2));
  Buffer buckets;
  MF_RETURN_IF_ERROR(ReadBuckets(payload, forward.tokens, *tensor, &buckets));
  const size_t count = forward.tokens * tensor->layout().width();
  Buffer y(count * sizeof(float));
  tensor->Forward(BucketsOf(buckets), payload[1].data(), forward.tokens, IsTraining(forward.at),
                  run_->history, y.as<float>());
  call.reply.payload = {FromF32(y, count, run_->rules.wire)};
  return Status::Ok();
}

Status Shard::Do(const BackwardRequest& backward, Call& call) {
  const Frames& payload = call.request.payload;
  call.reply.body = BackwardReply{};
  MF_RETURN_IF_ERROR(commit_.Admit(backward.at));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(FindTensor(backward.tensor, TensorKind::kMemory, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(payload, 4));
  MF_RETURN_IF_ERROR(CheckMicroBatch(backward.micro_batch, *tensor));
  Contribution c;
  c.step = backward.at.step;
  MF_RETURN_IF_ERROR(ReadBuckets(payload, backward.tokens, *tensor, &c.buckets));
  const size_t count = backward.tokens * tensor->layout().width();
  const Wire wire = run_->rules.wire;
  MF_RETURN_IF_ERROR(CheckFrame(payload, 2, count * NumberBytes(wire), "gradient"));
  MF_RETURN_IF_ERROR(CheckFrame(payload, 3, backward.tokens, "exponent"));
  c.tokens = backward.tokens;
  c.weights = payload[1];
  c.dy = ToF32(payload[2], count, wire);
  const int8_t* exponents = payload[3].as<int8_t>();
  const std::span<const uint32_t> buckets = BucketsOf(c.buckets);
  Buffer dots(buckets.size() * sizeof(int64_t));
  tensor->Dots(buckets, c.weights.data(), c.tokens, c.dy.data(), exponents, run_->history,
               dots.as<int64_t>());
  call.reply.payload = {Frame(dots)};
  // The worker goes on with dL/dp while the row gradients are summed.
  Answer(call, Status::Ok());
  if (!tensor->Accepts(backward.micro_batch)) return Status::Ok();
  c.finite =
      AllFinite(c.weights.data(), buckets.size()) && AllFinite(c.dy.data(), count) &&
      std::find(exponents, exponents + backward.tokens, kNotFinite) == exponents + backward.tokens;
  AllOrLost([&] { tensor->Contribute(backward.micro_batch, std::move(c)); });
  return Status::Ok();
}

Status Shard::Do(const PushRequest& push, Call& call) {
  const Frames& payload = call.request.payload;
  call.reply.body = PushReply{};
  MF_RETURN_IF_ERROR(commit_.Admit(push.at));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(FindTensor(push.tensor, TensorKind::kDense, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(payload, 3));
  MF_RETURN_IF_ERROR(CheckMicroBatch(push.micro_batch, *tensor));
  Contribution c;
  c.step = push.at.step;
  c.is_push = true;
  const Frame& ids = payload[0];
  if (ids.size() % sizeof(uint64_t) != 0) return Bad("row frame is not whole");
  c.rows = Buffer(ids.size());
  if (ids.size() > 0) std::memcpy(c.rows.data(), ids.data(), ids.size());
  const std::span<const uint64_t> listed = c.row_ids();
  MF_RETURN_IF_ERROR(CheckRows(tensor->layout(), listed));
  const bool whole = listed.empty() && push.row_count != 0;  // row_count = total: all rows
  if (whole) {
    MF_RETURN_IF_ERROR(CheckUnnamed(tensor->layout().spec));
    if (push.row_count != tensor->layout().spec.total_rows())
      return Bad("row count of a whole push");
  }
  const uint64_t rows = whole ? push.row_count : listed.size();
  const size_t hits = payload[1].size();
  if (hits != 0 && hits != rows * sizeof(uint32_t)) return Bad("hit frame of the wrong size");
  const size_t count = rows * tensor->layout().width();
  MF_RETURN_IF_ERROR(CheckFrame(payload, 2, count * sizeof(float), "value"));
  Answer(call, Status::Ok());
  if (!tensor->Accepts(push.micro_batch)) return Status::Ok();
  c.hits = payload[1];
  c.values = payload[2];
  c.finite = AllFinite(c.values.data(), count);
  c.whole = whole;
  AllOrLost([&] { tensor->Contribute(push.micro_batch, std::move(c)); });
  return Status::Ok();
}

Status Shard::Do(const PullRequest& pull, Call& call) {
  const Frames& payload = call.request.payload;
  call.reply.body = PullReply{};
  MF_RETURN_IF_ERROR(commit_.Admit(OpenStepOf(pull.at)));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(FindTensor(pull.tensor, TensorKind::kDense, &tensor));
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
  tensor->Pull(rows, IsTraining(pull.at), run_->history, values.as<float>());
  call.reply.payload = {Frame(values)};
  return Status::Ok();
}

Status Shard::Do(const ListRowsRequest& list, Call& call) {
  const Frames& payload = call.request.payload;
  call.reply.body = ListRowsReply{};
  MF_RETURN_IF_ERROR(commit_.Admit(OpenStepOf(list.at)));
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(FindTensor(list.tensor, TensorKind::kDense, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(payload, 0));
  const std::vector<uint64_t> rows =
      tensor->UpdatedRows(list.first_row, std::min(list.row_count, kListedRowsMax));
  Buffer buffer(rows.size() * sizeof(uint64_t));
  if (!rows.empty()) std::memcpy(buffer.data(), rows.data(), buffer.size());
  call.reply.payload = {Frame(buffer)};
  return Status::Ok();
}

Status Shard::Do(const BucketsRequest& buckets, Call& call) {
  const Frames& payload = call.request.payload;
  call.reply.body = BucketsReply{};
  TensorShard* tensor = nullptr;
  MF_RETURN_IF_ERROR(FindTensor(buckets.tensor, TensorKind::kMemory, &tensor));
  MF_RETURN_IF_ERROR(CheckFrames(payload, 0));
  if (options_.shard != 0) {
    return Bad("buckets are counted on shard 0, this is shard " + std::to_string(options_.shard));
  }
  const std::vector<TableBuckets> tables = tensor->Buckets(commit_.open().step);
  Buffer buffer(tables.size() * sizeof(TableBuckets));
  std::memcpy(buffer.data(), tables.data(), buffer.size());
  call.reply.body = BucketsReply{.step = commit_.finished()};
  call.reply.payload = {Frame(buffer)};
  return Status::Ok();
}

}  // namespace mf
