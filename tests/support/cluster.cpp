#include "tests/support/cluster.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "common/client/lease_work.h"
#include "tests/support/join.h"
#include "tests/support/model_cases.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

void Must(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "cluster: %s\n", status.message().c_str());
  std::abort();
}

template <class T>
T Must(Result<T> result) {
  Must(result.status());
  return std::move(result).value();
}

/// Passes everything on and notes which buckets were read.
class RecordingExchange final : public Exchange {
 public:
  RecordingExchange(Exchange& inner, size_t tensors) : inner_(inner), buckets_(tensors) {}

  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override {
    std::vector<uint32_t>& seen = buckets_[tensor.id];
    seen.resize(hashes.pairs * hashes.tokens);
    for (size_t i = 0; i < seen.size(); ++i) {
      switch (hashes.index_bytes) {
        case 1:
          seen[i] = hashes.indices.as<uint8_t>()[i];
          break;
        case 2:
          seen[i] = hashes.indices.as<uint16_t>()[i];
          break;
        default:
          seen[i] = hashes.indices.as<uint32_t>()[i];
      }
    }
    return inner_.Forward(tensor, hashes, y);
  }
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override {
    return inner_.Backward(tensor, hashes, dy, dweights);
  }

  SeenBuckets Take() { return std::move(buckets_); }

 private:
  Exchange& inner_;
  SeenBuckets buckets_;
};

}  // namespace

Cluster::Cluster(const Config& config, const Options& options)
    : config_(config),
      run_(DescribeRun(config_, "")),
      pool_(options.threads),
      model_(config_, run_.tensors, pool_) {
  Must(CheckConfig(config_));
  Must(CheckShards(run_, options.shards));
  servers_ = Must(EmbeddedServers::Start(context_, {.shards = options.shards,
                                                    .threads = options.server_threads,
                                                    .memory_bytes = options.memory_bytes}));
  client_ = std::make_unique<Client>(Must(ConnectZmq(context_, servers_->addresses())),
                                     servers_->addresses(), Client::Options{});
  tables_ = std::make_unique<TableClient>(*client_, run_);
  Join();
}

void Cluster::Join() {
  Must(SayHello(*client_, run_.Json()).status());
  // What the first worker of a run does with its `recover` lease.
  Must(RollBack(*client_, {1, 0}));
  open_ = {1, 1};
}

DenseTensors Cluster::Read() {
  DenseTensors values(run_.tensors.size());
  for (const TensorSpec& tensor : run_.tensors) {
    values[tensor.id].resize(tensor.values());
    Must(tables_->PullRange(finished(), tensor, 0, tensor.total_rows(), values[tensor.id].data())
             .Wait());
  }
  return values;
}

void Cluster::Write(const DenseTensors& values) {
  DenseTensors gradients = Read();
  for (const TensorSpec& tensor : run_.tensors) {
    std::vector<float>& gradient = gradients[tensor.id];
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] -= values[tensor.id][i];
    Must(tables_->PushWhole(open_, 0, tensor, gradient.data()).Wait());
  }
  EndStep(1);
}

Cluster::MicroBatch Cluster::Train(const TokenBatch& batch, double loss_scale) {
  const DenseTensors parameters = Read();
  MicroBatch result;
  Model::Workspace workspace;
  MutexLock computing(gate_);
  RemoteExchange remote(*tables_, pool_, gate_, open_, 0);
  RecordingExchange exchange(remote, run_.tensors.size());
  Must(model_.Train(parameters, batch, loss_scale, exchange, workspace, &result.loss_sum,
                    &result.gradients));
  Must(remote.Finish());
  const TensorSpec& embedding = run_.tensors[model_.embedding()];
  CompleteEmbedding(embedding, batch, &result.gradients[embedding.id]);
  for (const TensorSpec& tensor : run_.tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    Must(tables_->PushWhole(open_, 0, tensor, result.gradients[tensor.id].data()).Wait());
  }
  result.buckets = exchange.Take();
  return result;
}

std::vector<float> Cluster::Score(const TokenBatch& batch) {
  const DenseTensors parameters = Read();
  Model::Workspace workspace;
  std::vector<float> logprobs;
  MutexLock computing(gate_);
  RemoteExchange remote(*tables_, pool_, gate_, finished(), 0);
  Must(model_.Score(parameters, batch, remote, workspace, &logprobs));
  return logprobs;
}

void Cluster::EndStep(double lr) {
  const Prepared prepared = Must(tables_->Prepare(open_));
  if (!prepared.not_finite.empty()) Must(Status::Failed(prepared.not_finite + " is not finite"));
  if (!Must(tables_->Finish(open_, {.lr = lr}))) {
    Must(Status::Failed("the step was dropped"));
  }
  ++open_.step;
}

}  // namespace mf
