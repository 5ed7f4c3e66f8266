// Writes what the whole system computes, for the PyTorch reference to compare with: embedded
// servers, RemoteExchange and Trainer as `worker train` uses them.
//
//   reference_dump --config FILE [--set section.key=value]... --data FILE --out DIR [--shards N]
//                  [--memory BYTES] [--steps N]
//
// DIR/model.safetensors, DIR/dump.safetensors   one forward and backward, see compare.py
// DIR/init.safetensors, DIR/steps.safetensors   training steps, see train_compare.py
//
// Gradients are those that the servers accumulated: one SGD step of rate kProbeRate without decay
// or clipping is applied, and the difference of two exports divided by the rate is the gradient.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/client/client.h"
#include "common/client/lease_work.h"
#include "common/client/table_client.h"
#include "common/net/transport.h"
#include "tests/support/model_cases.h"
#include "worker/compute/cpu_compute.h"
#include "worker/config/config.h"
#include "worker/config/tensors.h"
#include "worker/data/data.h"
#include "worker/embedded/embedded.h"
#include "worker/exchange/remote_exchange.h"
#include "worker/export/export.h"
#include "worker/export/safetensors.h"
#include "worker/model/model_state.h"
#include "worker/train/trainer.h"

namespace mf {
namespace {

constexpr int64_t kWarmSteps = 3;  // so that biases and gains are not what they begin as
// So large that the parameter before the step does not cost the difference its digits; a power of
// two.
constexpr double kProbeRate = 1 << 16;

struct Options {
  std::string config, data, out;
  std::vector<std::string> overrides;
  int shards = 1;
  int64_t steps = 10;
  uint64_t memory_bytes = uint64_t{1} << 30;  // less: tables that hold updated rows only
  std::string File(const char* name) const { return (std::filesystem::path(out) / name).string(); }
};

/// Named numbers in memory, then a safetensors file.
class Dump {
 public:
  void Add(const std::string& name, std::vector<int64_t> shape, std::vector<float> values) {
    entries_.push_back({name, DType::kF32, std::move(shape)});
    floats_[name] = std::move(values);
  }
  void Add(const std::string& name, std::vector<int64_t> shape, std::vector<uint64_t> values) {
    entries_.push_back({name, DType::kU64, std::move(shape)});
    integers_[name] = std::move(values);
  }
  Status Write(const std::string& path) const {
    MF_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(path, entries_, "{}"));
    for (const TensorEntry& entry : entries_) {
      const auto append = [&](const auto& values) {
        return writer->Append(values.data(), values.size() * sizeof(values[0]));
      };
      MF_RETURN_IF_ERROR(entry.dtype == DType::kF32 ? append(floats_.at(entry.name))
                                                    : append(integers_.at(entry.name)));
    }
    return writer->Finish();
  }

 private:
  std::vector<TensorEntry> entries_;
  std::map<std::string, std::vector<float>> floats_;
  std::map<std::string, std::vector<uint64_t>> integers_;
};

/// Bucket indices [pairs][tokens] of one micro-batch by "<layer>.<part>".
struct Recorded {
  std::vector<int64_t> shape;
  std::vector<uint64_t> indices;
};
using Recording = std::map<std::string, Recorded>;

/// Notes the bucket indices on their way to the servers.
class RecordingExchange final : public Exchange {
 public:
  RecordingExchange(Exchange& inner, Recording& recording) : inner_(inner), recording_(recording) {}

  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override {
    const std::string prefix = "blocks.", suffix = ".tables";
    Recorded& recorded = recording_[tensor.name.substr(
        prefix.size(), tensor.name.size() - prefix.size() - suffix.size())];
    recorded.shape = {static_cast<int64_t>(hashes.pairs), static_cast<int64_t>(hashes.tokens)};
    recorded.indices.resize(hashes.pairs * hashes.tokens);
    for (size_t i = 0; i < recorded.indices.size(); ++i) {
      switch (hashes.index_bytes) {
        case 1:
          recorded.indices[i] = hashes.indices.as<uint8_t>()[i];
          break;
        case 2:
          recorded.indices[i] = hashes.indices.as<uint16_t>()[i];
          break;
        default:
          recorded.indices[i] = hashes.indices.as<uint32_t>()[i];
      }
    }
    return inner_.Forward(tensor, hashes, y);
  }
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override {
    return inner_.Backward(tensor, hashes, dy, dweights);
  }

 private:
  Exchange& inner_;
  Recording& recording_;
};

/// Data, servers and a trainer of one run; each uses those above it.
struct System {
  static Result<std::unique_ptr<System>> Start(const Config& config, const Options& options,
                                               Trainer::Options trainer_options) {
    auto system = std::make_unique<System>(config);
    MF_RETURN_IF_ERROR(CheckShards(system->run, options.shards));
    MF_ASSIGN_OR_RETURN(system->data, TokenSource::Open(system->config, options.data));
    MF_ASSIGN_OR_RETURN(
        system->servers,
        EmbeddedServers::Start(
            system->context,
            {.shards = options.shards, .threads = 2, .memory_bytes = options.memory_bytes}));
    const std::vector<std::string>& addresses = system->servers->addresses();
    MF_ASSIGN_OR_RETURN(auto transport, ConnectZmq(system->context, addresses));
    system->client = std::make_unique<Client>(std::move(transport), addresses,
                                              Client::Options{config.exchange.deadline_seconds});
    system->trainer =
        std::make_unique<Trainer>(system->config, system->run, *system->data, *system->client,
                                  system->compute, system->pool, std::move(trainer_options));
    MF_RETURN_IF_ERROR(system->trainer->Join());
    return system;
  }

  Status ExportAt(FinishedStep at, const std::string& path) {
    ServerTensors reader(trainer->tables(), at);
    return Export(reader, config, tensors, ExportRows::kAll, path);
  }

  explicit System(const Config& c) : config(c), run(DescribeRun(config, "reference")) {}

  const Config config;
  const RunDescription run;
  const std::vector<TensorSpec>& tensors = run.tensors;
  std::unique_ptr<TokenSource> data;
  TransportContext context;
  std::unique_ptr<EmbeddedServers> servers;
  std::unique_ptr<Client> client;
  ThreadPool pool{1};
  CpuCompute compute{config, tensors, pool};
  std::unique_ptr<Trainer> trainer;
};

std::vector<uint64_t> Wide(const std::vector<uint32_t>& values) {
  return {values.begin(), values.end()};
}

void AddTokens(const std::string& prefix, const TokenBatch& batch, Dump* dump) {
  const std::vector<int64_t> shape{static_cast<int64_t>(batch.sequences),
                                   static_cast<int64_t>(batch.length)};
  dump->Add(prefix + ".inputs", shape, Wide(batch.inputs));
  dump->Add(prefix + ".targets", shape, Wide(batch.targets));
}

void AddIndices(const std::string& prefix, const Recording& recording, Dump* dump) {
  for (const auto& [name, recorded] : recording) {
    dump->Add(prefix + name, recorded.shape, recorded.indices);
  }
}

/// The dense tensors of an export.
Result<DenseTensors> DenseOf(const std::vector<TensorSpec>& tensors, const std::string& path) {
  MF_ASSIGN_OR_RETURN(const auto file, SafetensorsReader::Open(path));
  MF_RETURN_IF_ERROR(file->CheckTensors(tensors));
  DenseTensors values(tensors.size());
  for (const TensorSpec& tensor : tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    const SafetensorsReader::Tensor& found = *file->Find(tensor.name);
    values[tensor.id].assign(found.f32(), found.f32() + found.bytes / sizeof(float));
  }
  return values;
}

/// Forward, backward and pushes of one micro-batch in the open step `at`, as Trainer does them.
Status TrainOnce(System& system, const Model& model, const DenseTensors& parameters, OpenStep at,
                 const TokenBatch& batch, Dump* dump) {
  ThreadPool pool(1);
  ComputeGate gate;
  Recording recording;
  DenseTensors gradients;
  double loss_sum = 0;
  TableClient& tables = system.trainer->tables();
  {
    MutexLock computing(gate);
    RemoteExchange remote(tables, pool, gate, at, 0);
    RecordingExchange exchange(remote, recording);
    Model::Workspace workspace;
    const double scale = 1.0 / static_cast<double>(batch.tokens());
    MF_RETURN_IF_ERROR(
        model.Train(parameters, batch, scale, exchange, workspace, &loss_sum, &gradients));
    MF_RETURN_IF_ERROR(remote.Finish());
  }
  const TensorSpec& embedding = system.tensors[model.embedding()];
  CompleteEmbedding(embedding, batch, &gradients[embedding.id]);
  for (const TensorSpec& tensor : system.tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    MF_RETURN_IF_ERROR(tables.PushWhole(at, 0, tensor, gradients[tensor.id].data()).Wait());
  }
  AddIndices("indices.", recording, dump);
  dump->Add("loss", {1},
            std::vector<float>{static_cast<float>(loss_sum / static_cast<double>(batch.tokens()))});
  return Status::Ok();
}

/// Logits of every position, read from where the model leaves those of a small batch.
Status AddLogits(System& system, const Model& model, const DenseTensors& parameters,
                 FinishedStep at, const TokenBatch& batch, Dump* dump) {
  ThreadPool pool(1);
  ComputeGate gate;
  MutexLock computing(gate);
  RemoteExchange exchange(system.trainer->tables(), pool, gate, at, 0);
  Model::Workspace workspace;
  std::vector<float> logprobs;
  MF_RETURN_IF_ERROR(model.Score(parameters, batch, exchange, workspace, &logprobs));
  const int64_t tokens = static_cast<int64_t>(batch.tokens());
  std::vector<float> logits = workspace.state->logits;
  const size_t numbers = static_cast<size_t>(tokens * system.config.model.vocabulary);
  if (logits.size() < numbers) return Status::Invalid("the batch is too large to dump its logits");
  logits.resize(numbers);
  dump->Add("logits", {tokens, system.config.model.vocabulary}, std::move(logits));
  return Status::Ok();
}

/// grad.<name> = (before - after) / kProbeRate of every tensor.
Status AddGradients(const std::vector<TensorSpec>& tensors, const std::string& before,
                    const std::string& after, Dump* dump) {
  MF_ASSIGN_OR_RETURN(const auto a, SafetensorsReader::Open(before));
  MF_ASSIGN_OR_RETURN(const auto b, SafetensorsReader::Open(after));
  for (const TensorSpec& tensor : tensors) {
    const SafetensorsReader::Tensor& old = *a->Find(tensor.name);
    const SafetensorsReader::Tensor& now = *b->Find(tensor.name);
    std::vector<float> gradient(old.bytes / sizeof(float));
    for (size_t i = 0; i < gradient.size(); ++i) {
      const double difference =
          static_cast<double>(old.f32()[i]) - static_cast<double>(now.f32()[i]);
      gradient[i] = static_cast<float>(difference / kProbeRate);
    }
    dump->Add("grad." + tensor.name, tensor.shape, std::move(gradient));
  }
  return Status::Ok();
}

/// model.safetensors and dump.safetensors: a run of kWarmSteps, then one step by hand.
Status DumpPass(Config config, const Options& options) {
  config.train.steps = kWarmSteps;
  config.train.micro_batches = 1;
  config.train.optimizer = OptimizerKind::kSgd;
  config.train.lr = 1;
  config.train.weight_decay = 0;
  MF_ASSIGN_OR_RETURN(const auto system, System::Start(config, options, {}));
  MF_RETURN_IF_ERROR(system->trainer->Run());
  const FinishedStep before = system->trainer->finished();
  const OpenStep open = before.next();
  const FinishedStep after{open.epoch, open.step};
  const std::string model_path = options.File("model.safetensors");
  MF_RETURN_IF_ERROR(system->ExportAt(before, model_path));
  MF_ASSIGN_OR_RETURN(const DenseTensors parameters, DenseOf(system->tensors, model_path));

  Dump dump;
  TokenBatch batch;
  MF_RETURN_IF_ERROR(system->data->TrainBatch(static_cast<int64_t>(open.step), 0, &batch));
  AddTokens("tokens", batch, &dump);
  ThreadPool pool(1);
  const Model model(system->config, system->tensors, pool);
  MF_RETURN_IF_ERROR(AddLogits(*system, model, parameters, before, batch, &dump));
  MF_RETURN_IF_ERROR(TrainOnce(*system, model, parameters, open, batch, &dump));

  TableClient& tables = system->trainer->tables();
  MF_ASSIGN_OR_RETURN(const Prepared prepared, tables.Prepare(open));
  if (!prepared.not_finite.empty()) return Status::Failed(prepared.not_finite + " is not finite");
  MF_ASSIGN_OR_RETURN(const bool applied, tables.Finish(open, {.lr = kProbeRate}));
  MF_CHECK(applied);
  const std::string after_path = options.File("after.safetensors");
  MF_RETURN_IF_ERROR(system->ExportAt(after, after_path));
  MF_RETURN_IF_ERROR(AddGradients(system->tensors, model_path, after_path, &dump));
  return dump.Write(options.File("dump.safetensors"));
}

/// init.safetensors and steps.safetensors: a run of options.steps, watched.
Status DumpSteps(Config config, const Options& options) {
  config.train.steps = options.steps;
  std::unique_ptr<System> system;
  std::map<std::pair<uint64_t, uint32_t>, Recording> recordings;  // by step and micro-batch
  std::vector<StepRecord> records;
  Status exported = Status::Failed("no micro-batch was trained");
  Trainer::Options watch;
  watch.on_step = [&](const StepRecord& record) {
    records.push_back(record);
    return Status::Ok();
  };
  watch.wrap_exchange = [&](Exchange& inner, OpenStep at, uint32_t number) {
    // Step 1 cannot end before this micro-batch is in, so the state is still the initial one.
    if (at.step == 1 && number == 0) {
      exported = system->ExportAt(at.before(), options.File("init.safetensors"));
    }
    return std::make_unique<RecordingExchange>(inner, recordings[{at.step, number}]);
  };
  MF_ASSIGN_OR_RETURN(system, System::Start(config, options, std::move(watch)));
  MF_RETURN_IF_ERROR(system->trainer->Run());
  MF_RETURN_IF_ERROR(exported);

  Dump dump;
  std::vector<float> losses, norms, rates;
  for (const StepRecord& record : records) {
    if (record.dropped)
      return Status::Failed("step " + std::to_string(record.step) + " was dropped");
    const std::string step = std::to_string(record.step);
    TokenBatch whole;
    for (int64_t number = 0; number < config.train.micro_batches; ++number) {
      TokenBatch batch;
      MF_RETURN_IF_ERROR(
          system->data->TrainBatch(static_cast<int64_t>(record.step), number, &batch));
      whole.length = batch.length;
      whole.sequences += batch.sequences;
      whole.inputs.insert(whole.inputs.end(), batch.inputs.begin(), batch.inputs.end());
      whole.targets.insert(whole.targets.end(), batch.targets.begin(), batch.targets.end());
      AddIndices("indices." + step + "." + std::to_string(number) + ".",
                 recordings[{record.step, static_cast<uint32_t>(number)}], &dump);
    }
    AddTokens("tokens." + step, whole, &dump);
    losses.push_back(static_cast<float>(record.loss));
    norms.push_back(static_cast<float>(record.grad_norm));
    rates.push_back(static_cast<float>(record.lr));
  }
  const int64_t steps = static_cast<int64_t>(records.size());
  dump.Add("loss", {steps}, std::move(losses));
  dump.Add("grad_norm", {steps}, std::move(norms));
  dump.Add("lr", {steps}, std::move(rates));
  dump.Add("micro_batches", {1},
           std::vector<uint64_t>{static_cast<uint64_t>(config.train.micro_batches)});
  return dump.Write(options.File("steps.safetensors"));
}

/// init.safetensors again: the f32 behind rows of bf16, which is what rows of f32 begin with.
Status DumpInitialF32(Config config, const Options& options) {
  config.model.table_dtype = RowType::kF32;
  config.train.steps = 1;
  config.train.optimizer = OptimizerKind::kSgd;
  config.train.lr = 0;
  config.train.weight_decay = 0;
  MF_ASSIGN_OR_RETURN(const auto system, System::Start(config, options, {}));
  MF_RETURN_IF_ERROR(system->trainer->Run());
  return system->ExportAt(system->trainer->finished(), options.File("init.safetensors"));
}

Status Run(const Options& options) {
  MF_ASSIGN_OR_RETURN(const Config config, LoadConfig(options.config, options.overrides));
  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  if (error) return Status::Invalid(options.out + ": " + error.message());
  if (config.model.table_dtype == RowType::kBf16) {
    // An update is not to be seen in what is exported: no gradients of a pass.
    MF_RETURN_IF_ERROR(DumpSteps(config, options));
    return DumpInitialF32(config, options);
  }
  MF_RETURN_IF_ERROR(DumpPass(config, options));
  return DumpSteps(config, options);
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  mf::Options options;
  CLI::App app("Dumps what the system computes, for the PyTorch reference");
  app.add_option("--config", options.config, "TOML file")->required();
  app.add_option("--set", options.overrides, "section.key=value")->allow_extra_args(false);
  app.add_option("--data", options.data, "text or tokens")->required();
  app.add_option("--out", options.out, "folder of the dumps")->required();
  app.add_option("--shards", options.shards, "embedded servers")->check(CLI::PositiveNumber);
  app.add_option("--steps", options.steps, "of training")->check(CLI::PositiveNumber);
  app.add_option("--memory", options.memory_bytes, "for tables addressed directly");
  CLI11_PARSE(app, argc, argv);
  const mf::Status status = mf::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "reference_dump: %s\n", status.message().c_str());
  return status.code() == mf::Code::kInvalid ? 2 : 1;
}
