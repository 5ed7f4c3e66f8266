#include "tests/bench/support/served_layer.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "common/base/check.h"
#include "tests/support/join.h"
#include "worker/config/tensors.h"
#include "worker/exchange/remote_exchange.h"

namespace mf {
namespace {

/// A model of one block that has a memory layer of this shape: the tables after the expansion have
/// bits to choose, and the ones before it where there are few.
Config ConfigOf(const LayerShape& shape) {
  Config config;
  int64_t bits = 0;
  while (size_t{1} << bits < shape.rows) ++bits;
  config.model.layers = 1;
  config.model.heads = 1;
  config.model.K = static_cast<int64_t>(shape.tables);
  const int64_t own_bits = static_cast<int64_t>(shape.columns / shape.tables);
  config.model.tau = std::min(bits, own_bits);
  config.model.expand_bits = bits >= own_bits ? bits - own_bits : own_bits - bits;
  config.model.d = config.model.K * config.model.tau;
  config.model.vocabulary = 257;
  config.model.sequence = static_cast<int64_t>(shape.tokens);
  config.train.batch = 1;
  config.train.micro_batches = 65536;  // no backward is a repeat
  config.train.optimizer = OptimizerKind::kSgd;
  config.exchange.mode = ExchangeMode::kPushdown;
  MustBeOk(CheckConfig(config));
  return config;
}

/// Little-endian: the low bytes come first.
void StoreIndex(const Buffer& to, size_t i, size_t index_bytes, uint32_t bucket) {
  std::memcpy(to.data() + i * index_bytes, &bucket, index_bytes);
}

}  // namespace

void MustBeOk(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "benchmark: %s\n", status.message().c_str());
  std::exit(1);
}

void AwaitIdle(TableClient& tables, const OpenStep& at, const TensorSpec& tensor) {
  const auto pairs = static_cast<size_t>(tensor.tables * tensor.probes);
  const Buffer indices(pairs * static_cast<size_t>(tensor.index_bytes()));
  const Buffer weights(pairs * sizeof(float));
  std::memset(indices.data(), 0, indices.size());
  std::memset(weights.data(), 0, weights.size());
  std::vector<float> y(static_cast<size_t>(tensor.columns));
  MustBeOk(tables.Forward(at, tensor, 1, indices, weights, y.data()).Wait());
}

ServedLayer::ServedLayer(TransportContext& context, const std::string& address,
                         const LayerShape& shape, const ClientKeys* keys)
    : shape_(shape), config_(ConfigOf(shape)), run_(DescribeRun(config_, "")) {
  client_ = std::make_unique<Client>(Must(ConnectZmq(context, {address}, keys)),
                                     std::vector{address}, Client::Options{});
  tables_ = std::make_unique<TableClient>(*client_, run_);
  for (const char* name : {"blocks.0.m2.tables", "blocks.0.m1.tables"}) {
    const TensorSpec* tensor = FindTensor(run_.tensors, name);
    if (tensor->rows == static_cast<int64_t>(shape.rows) &&
        tensor->columns == static_cast<int64_t>(shape.columns)) {
      tensor_ = tensor;
    }
  }
  MF_CHECK(tensor_ != nullptr);
  Must(SayHello(*client_, run_.Json()));
  MustBeOk(RollBack(*client_, at_.before()));
}

WireBatch ServedLayer::Batch(const BenchLayer& layer, size_t tokens) const {
  const size_t pairs = shape_.tables * tokens;
  const size_t index_bytes = static_cast<size_t>(tensor_->index_bytes());
  WireBatch batch{tokens, Buffer(pairs * index_bytes), Buffer(pairs * sizeof(float)),
                  Buffer(tokens * shape_.columns * sizeof(float))};
  for (size_t i = 0; i < pairs; ++i) {
    const size_t from = i / tokens * layer.shape.tokens + i % tokens;
    StoreIndex(batch.indices, i, index_bytes, layer.buckets[from]);
    batch.weights.as<float>()[i] = layer.weights[from];
  }
  std::memcpy(batch.dy.data(), layer.dy.get(), batch.dy.size());
  return batch;
}

WireBatch ServedLayer::RandomBatch(size_t tokens) const {
  const size_t pairs = shape_.tables * tokens;
  const size_t index_bytes = static_cast<size_t>(tensor_->index_bytes());
  WireBatch batch{tokens, Buffer(pairs * index_bytes), Buffer(pairs * sizeof(float)),
                  Buffer(tokens * shape_.columns * sizeof(float))};
  std::mt19937 rng(5);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t k = 0; k < shape_.tables; ++k) {
      StoreIndex(batch.indices, k * tokens + t, index_bytes,
                 static_cast<uint32_t>(rng() % shape_.rows));
      batch.weights.as<float>()[k * tokens + t] = 1e-3f * static_cast<float>(rng() % 1000);
    }
  }
  for (size_t i = 0; i < tokens * shape_.columns; ++i) {
    batch.dy.as<float>()[i] = 1e-3f * static_cast<float>(i % 1021);
  }
  return batch;
}

double ServedLayer::Timed(int calls, size_t in_flight,
                          const std::function<Pending(int)>& start_call) {
  return SecondsOf([&] {
           std::deque<Pending> open;
           for (int call = 0; call < calls; ++call) {
             if (open.size() == in_flight) {
               MustBeOk(open.front().Wait());
               open.pop_front();
             }
             open.push_back(start_call(call));
           }
           for (Pending& pending : open) MustBeOk(pending.Wait());
           AwaitIdle(*tables_, at_, *tensor_);
         }) /
         calls;
}

double ServedLayer::Forward(const WireBatch& batch, int calls, size_t in_flight) {
  std::vector<std::vector<float>> y(in_flight);
  for (auto& values : y) values.resize(batch.tokens * shape_.columns);
  return Timed(calls, in_flight, [&](int call) {
    return tables_->Forward(at_, *tensor_, batch.tokens, batch.indices, batch.weights,
                            y[static_cast<size_t>(call) % in_flight].data());
  });
}

double ServedLayer::Backward(const WireBatch& batch, int calls, size_t in_flight) {
  std::vector<std::vector<float>> dweights(in_flight);
  for (auto& values : dweights) values.resize(shape_.tables * batch.tokens);
  return Timed(calls, in_flight, [&](int call) {
    return tables_->Backward(at_, micro_batch_++, *tensor_, batch.tokens, batch.indices,
                             batch.weights, batch.dy,
                             dweights[static_cast<size_t>(call) % in_flight].data());
  });
}

double ServedLayer::ForwardAndBackward(const WireBatch& batch, int micro_batches,
                                       size_t in_flight) {
  struct Slot {
    std::vector<float> y, dweights;
  };
  struct Open {
    Pending pending;
    size_t slot;
    bool backward;
  };
  std::vector<Slot> slots(in_flight);
  for (Slot& slot : slots) {
    slot.y.resize(batch.tokens * shape_.columns);
    slot.dweights.resize(shape_.tables * batch.tokens);
  }
  std::deque<Open> open;
  int begun = 0;
  const auto forward = [&](size_t slot) {
    ++begun;
    open.push_back({tables_->Forward(at_, *tensor_, batch.tokens, batch.indices, batch.weights,
                                     slots[slot].y.data()),
                    slot, false});
  };
  const auto backward = [&](size_t slot) {
    open.push_back({tables_->Backward(at_, micro_batch_++, *tensor_, batch.tokens, batch.indices,
                                      batch.weights, batch.dy, slots[slot].dweights.data()),
                    slot, true});
  };
  return SecondsOf([&] {
           for (size_t slot = 0; slot < in_flight && begun < micro_batches; ++slot) forward(slot);
           while (!open.empty()) {
             Open next = std::move(open.front());
             open.pop_front();
             MustBeOk(next.pending.Wait());
             if (!next.backward) {
               backward(next.slot);
             } else if (begun < micro_batches) {
               forward(next.slot);
             }
           }
           AwaitIdle(*tables_, at_, *tensor_);
         }) /
         micro_batches;
}

double ServedLayer::RoundTrip(const BenchLayer& layer, int calls) {
  const WireBatch batch = Batch(layer, 1);
  std::vector<float> y(shape_.columns);
  std::vector<double> seconds;
  for (int call = 0; call < calls; ++call) {
    seconds.push_back(SecondsOf([&] {
      MustBeOk(tables_->Forward(at_, *tensor_, 1, batch.indices, batch.weights, y.data()).Wait());
    }));
  }
  std::nth_element(seconds.begin(), seconds.begin() + calls / 2, seconds.end());
  return seconds[static_cast<size_t>(calls / 2)];
}

double ServedLayer::WireBytes() const {
  double bytes = 0;
  for (const Op op : {Op::kForward, Op::kBackward, Op::kPull, Op::kPush}) {
    bytes += static_cast<double>(client_->traffic(op).sent_bytes.load() +
                                 client_->traffic(op).received_bytes.load());
  }
  return bytes;
}

ServedLayer::Exchanged ServedLayer::Exchange(const WireBatch& batch, ExchangeMode mode,
                                             ThreadPool& pool) {
  TensorSpec tensor = *tensor_;
  tensor.mode = mode;
  const Hashes hashes{batch.tokens,  shape_.tables, 1, static_cast<int>(tensor.index_bytes()),
                      batch.indices, batch.weights};
  std::vector<float> y(batch.tokens * shape_.columns), dweights(shape_.tables * batch.tokens);
  const double bytes = WireBytes();
  const double seconds = SecondsOf([&] {
    ComputeGate gate;
    MutexLock lock(gate);
    RemoteExchange exchange(*tables_, pool, gate, at_, micro_batch_++);
    MustBeOk(exchange.Forward(tensor, hashes, y.data()));
    MustBeOk(exchange.Backward(tensor, hashes, batch.dy, dweights.data()));
    MustBeOk(exchange.Finish());
    AwaitIdle(*tables_, at_, *tensor_);
  });
  return {seconds, WireBytes() - bytes};
}

ExchangeMode ServedLayer::Choice(size_t tokens) const {
  Config config = config_;
  config.model.sequence = static_cast<int64_t>(tokens);
  config.exchange.mode.reset();
  return FindTensor(TensorsOf(config), tensor_->name)->mode;
}

uint64_t ServedLayer::DistinctRows(const WireBatch& batch) const {
  const size_t index_bytes = static_cast<size_t>(tensor_->index_bytes());
  uint64_t distinct = 0;
  for (size_t k = 0; k < shape_.tables; ++k) {
    std::vector<bool> met(shape_.rows);
    for (size_t t = 0; t < batch.tokens; ++t) {
      uint32_t bucket = 0;
      std::memcpy(&bucket, batch.indices.data() + (k * batch.tokens + t) * index_bytes,
                  index_bytes);
      if (!met[bucket]) ++distinct;
      met[bucket] = true;
    }
  }
  return distinct;
}

bool ServedLayer::CanPull(const WireBatch& batch) const {
  constexpr uint64_t kReplyBytes = uint64_t{1} << 30;  // pserver/shard/shard_requests.cpp
  return DistinctRows(batch) * shape_.columns * sizeof(float) <= kReplyBytes;
}

}  // namespace mf
