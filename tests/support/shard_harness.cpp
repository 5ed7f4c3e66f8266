#include "tests/support/shard_harness.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>

#include "common/base/check.h"
#include "common/kernels/pairs.h"
#include "common/kernels/wire.h"
#include "tests/support/failing_memory.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

/// Random numbers of one tensor in one micro-batch: the same in every harness.
std::mt19937_64 RandomOf(const TensorSpec& spec, uint64_t data, uint32_t micro_batch) {
  return std::mt19937_64((data * 64 + micro_batch) * 1024 + spec.id);
}

std::vector<float> RandomFloats(std::mt19937_64& random, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) {
    value = static_cast<float>(static_cast<double>(random() % 20'001) / 1e4 - 1);
  }
  return values;
}

}  // namespace

Config ShardConfig() {
  Config config;
  config.model.d = 32;
  config.model.K = 8;
  config.model.tau = 4;
  config.model.expand_bits = 1;
  config.model.layers = 1;
  config.model.heads = 2;
  config.model.sequence = 8;
  config.model.vocabulary = 20;
  config.train.micro_batches = 3;
  config.train.batch = 2;
  config.train.steps = 1000;
  config.exchange.mode = ExchangeMode::kPushdown;
  return config;
}

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = std::bit_cast<uint32_t>(values[i]);
  return bits;
}

ShardHarness::ShardHarness(const Config& config, const Options& options)
    : ShardHarness(DescribeRun(config, ""), options) {}

ShardHarness::ShardHarness(const RunDescription& run, const Options& options)
    : run_(run), pool_(options.threads) {
  shard_ = std::make_unique<Shard>(Shard::Options{.memory_bytes = options.memory_bytes,
                                                  .metrics = &metrics_,
                                                  .store = options.store,
                                                  .writer = options.writer,
                                                  .initial = options.initial,
                                                  .disk = options.disk},
                                   pool_, [this](const std::string& peer, Reply reply) {
                                     const UnlimitedMemory memory;
                                     sent_.emplace_back(peer, std::move(reply));
                                   });
  if (!options.recover) return;
  const Reply hello = Send(Hello());
  MF_CHECK(hello.code == Code::kOk);
  session = As<HelloReply>(hello).session;
  MF_CHECK(Send(Rollback(epoch, 0)).code == Code::kOk);
}

const TensorSpec& ShardHarness::spec(const std::string& name) const {
  const TensorSpec* found = FindTensor(run_.tensors, name);
  MF_CHECK(found != nullptr);
  return *found;
}

Reply ShardHarness::Send(Request request) {
  request.id = next_id_++;
  const auto before = static_cast<ptrdiff_t>(sent_.size());
  shard_->Handle("peer", request, 0);
  // Others may have been sent and answered meanwhile (ThreadPool::SetYield).
  const auto is_its = [&](const auto& sent) { return sent.second.id == request.id; };
  MF_CHECK(std::count_if(sent_.begin() + before, sent_.end(), is_its) == 1);
  return std::find_if(sent_.begin() + before, sent_.end(), is_its)->second;
}

Request ShardHarness::Make(RequestBody body, Frames payload) const {
  return {.session = session, .body = std::move(body), .payload = std::move(payload)};
}

Request ShardHarness::Hello() const {
  return Make(HelloRequest{.shards = 1, .description = run_.Json()});
}

Request ShardHarness::Rollback(uint64_t to_epoch, uint64_t step) const {
  return Make(RollbackRequest{.to = {to_epoch, step}});
}

Request ShardHarness::Forward(const TensorSpec& spec, uint64_t data, uint32_t micro_batch) const {
  const uint32_t tokens = static_cast<uint32_t>(run_.rules.tokens_per_micro_batch);
  std::mt19937_64 random = RandomOf(spec, data, micro_batch);
  const size_t tables = static_cast<size_t>(spec.tables);
  const uint64_t rows = static_cast<uint64_t>(spec.rows);
  std::vector<uint8_t> buckets;
  for (size_t i = 0; i < tables * tokens; ++i) {
    // Small buckets are hit often, large ones rarely: rows with all kinds of gaps.
    buckets.push_back(static_cast<uint8_t>(random() % (1 + random() % rows)));
  }
  return Make(ForwardRequest{.at = open(), .tensor = spec.id, .tokens = tokens},
              {FrameOf(buckets), FrameOf(RandomFloats(random, buckets.size()))});
}

Request ShardHarness::Backward(const TensorSpec& spec, uint64_t data, uint32_t micro_batch) const {
  Request request = Forward(spec, data, micro_batch);
  const uint32_t tokens = std::get<ForwardRequest>(request.body).tokens;
  request.body = BackwardRequest{
      .at = open(), .tensor = spec.id, .micro_batch = micro_batch, .tokens = tokens};
  const size_t columns = static_cast<size_t>(spec.columns);
  std::mt19937_64 random = RandomOf(spec, data + 1'000'000, micro_batch);
  std::vector<float> dy = RandomFloats(random, tokens * columns);
  std::vector<uint16_t> narrow(dy.size());
  PackBf16(narrow.data(), dy.data(), dy.size());
  const bool bf16 = run_.rules.wire == Wire::kBf16;
  if (bf16) UnpackBf16(dy.data(), narrow.data(), dy.size());  // exponents are of what is sent
  std::vector<int8_t> exponents;
  for (size_t t = 0; t < tokens; ++t) {
    exponents.push_back(DotExponent(dy.data() + t * columns, columns));
  }
  request.payload.push_back(bf16 ? FrameOf(narrow) : FrameOf(dy));
  request.payload.push_back(FrameOf(exponents));
  return request;
}

Request ShardHarness::Push(const TensorSpec& spec, uint64_t data, uint32_t micro_batch) const {
  std::mt19937_64 random = RandomOf(spec, data, micro_batch);
  std::vector<uint64_t> rows;
  size_t count = spec.total_rows();
  if (spec.name == "embed.weight") {
    for (uint64_t row = 0; row < spec.total_rows(); ++row) {
      if (random() % (row + 2) < 2) rows.push_back(row);
    }
    count = rows.size();
  }
  return Make(PushRequest{.at = open(),
                          .tensor = spec.id,
                          .micro_batch = micro_batch,
                          .row_count = spec.name == "embed.weight" ? 0 : count},
              {FrameOf(rows), Frame(),
               FrameOf(RandomFloats(random, count * static_cast<size_t>(spec.columns)))});
}

Request ShardHarness::PullAll(const TensorSpec& spec) const {
  return Make(PullRequest{.at = finished(), .tensor = spec.id, .row_count = spec.total_rows()},
              {Frame()});
}

void ShardHarness::MicroBatch(uint64_t data, uint32_t micro_batch) {
  for (const TensorSpec& spec : run_.tensors) {
    if (spec.kind == TensorKind::kMemory) {
      ASSERT_EQ(Send(Forward(spec, data, micro_batch)).code, Code::kOk) << spec.name;
      ASSERT_EQ(Send(Backward(spec, data, micro_batch)).code, Code::kOk) << spec.name;
    } else {
      ASSERT_EQ(Send(Push(spec, data, micro_batch)).code, Code::kOk) << spec.name;
    }
  }
}

Reply ShardHarness::End(double lr, bool apply) {
  Reply prepared = Send(Make(PrepareRequest{open()}));
  EXPECT_EQ(prepared.code, Code::kOk) << prepared.message;
  const Reply ended =
      apply ? Send(Make(ApplyRequest{.at = open(), .lr = static_cast<float>(lr), .scale = 0.5}))
            : Send(Make(DropRequest{.at = open()}));
  EXPECT_EQ(ended.code, Code::kOk) << ended.message;
  EXPECT_EQ(apply ? As<ApplyReply>(ended).applied : As<DropReply>(ended).applied, apply);
  return prepared;
}

Reply ShardHarness::RunStep(uint64_t data, double lr, bool apply) {
  for (uint32_t i = 0; i < run_.rules.micro_batches; ++i) MicroBatch(data, i);
  return End(lr, apply);
}

std::vector<uint32_t> ShardHarness::State() {
  std::vector<uint32_t> state;
  for (const TensorSpec& spec : run_.tensors) {
    const Reply reply = Send(PullAll(spec));
    EXPECT_EQ(reply.code, Code::kOk) << spec.name << ": " << reply.message;
    if (reply.code != Code::kOk) return {};
    for (size_t i = 0; i < reply.payload[0].size() / sizeof(uint32_t); ++i) {
      state.push_back(LoadUnaligned<uint32_t>(reply.payload[0].data(), i));
    }
  }
  return state;
}

}  // namespace mf
