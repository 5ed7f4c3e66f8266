// Requests for tensors, of training above all: what is checked of each before the tables see it.
#include <algorithm>
#include <cstring>
#include <span>

#include "common/kernels/wire.h"
#include "pserver/shard/shard_run.h"
#include "pserver/shard/table_reads.h"

namespace mf {
namespace {

Status Bad(const std::string& what) { return Status::Invalid(what); }

/// f32 from a wire frame: itself, or unpacked from bf16.
Frame ToF32(const Frame& frame, size_t count, Wire wire) {
  if (wire == Wire::kF32) return frame;
  Buffer buffer(count * sizeof(float));
  UnpackBf16(buffer.as<float>(), frame.data(), count);
  return buffer;
}

}  // namespace

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
  call.reply.body = ForwardReply{};
  MF_RETURN_IF_ERROR(commit_.Admit(OpenStepOf(forward.at)));
  MF_ASSIGN_OR_RETURN(call.reply.payload,
                      AnswerForward(forward, call.request.payload, run_->description, *run_));
  return Status::Ok();
}

Status Shard::Do(const PullRequest& pull, Call& call) {
  call.reply.body = PullReply{};
  MF_RETURN_IF_ERROR(commit_.Admit(OpenStepOf(pull.at)));
  MF_ASSIGN_OR_RETURN(call.reply.payload,
                      AnswerPull(pull, call.request.payload, run_->description, *run_));
  return Status::Ok();
}

Status Shard::Do(const ListRowsRequest& list, Call& call) {
  call.reply.body = ListRowsReply{};
  MF_RETURN_IF_ERROR(commit_.Admit(OpenStepOf(list.at)));
  MF_ASSIGN_OR_RETURN(call.reply.payload,
                      AnswerListRows(list, call.request.payload, run_->description, *run_));
  return Status::Ok();
}

Status Shard::Do(const BackwardRequest& backward, Call& call) {
  const Frames& payload = call.request.payload;
  call.reply.body = BackwardReply{};
  MF_RETURN_IF_ERROR(commit_.Admit(backward.at));
  MF_ASSIGN_OR_RETURN(TensorShard* const tensor,
                      FindTensor(run_->description, *run_, backward.tensor, TensorKind::kMemory));
  MF_RETURN_IF_ERROR(CheckFrames(payload, 4));
  MF_RETURN_IF_ERROR(CheckMicroBatch(backward.micro_batch, *tensor));
  Contribution c;
  c.step = backward.at.step;
  MF_ASSIGN_OR_RETURN(c.buckets, ReadBuckets(payload, backward.tokens, run_->rules, *tensor));
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
  MF_ASSIGN_OR_RETURN(TensorShard* const tensor,
                      FindTensor(run_->description, *run_, push.tensor, TensorKind::kDense));
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

Status Shard::Do(const BucketsRequest& buckets, Call& call) {
  const Frames& payload = call.request.payload;
  call.reply.body = BucketsReply{};
  MF_ASSIGN_OR_RETURN(TensorShard* const tensor,
                      FindTensor(run_->description, *run_, buckets.tensor, TensorKind::kMemory));
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
