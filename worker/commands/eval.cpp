// worker eval: the loss of an exported model, or of the newest snapshots, on a file.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "worker/commands/commands.h"
#include "worker/data/tokens.h"
#include "worker/exchange/remote_exchange.h"
#include "worker/export/loaded_model.h"
#include "worker/export/local_exchange.h"
#include "worker/export/scorer.h"
#include "worker/export/snapshot_model.h"

namespace mf {
namespace {

struct EvalFlags {
  std::string model, data;
  int64_t windows = 0;
  int threads = 0;
  Backend backend = Backend::kAuto;
};

/// Scores all of --data and prints its loss.
Status EvalWith(const Config& config, const std::vector<TensorSpec>& tensors,
                Compute::Parameters dense, Exchange& exchange, ThreadPool& pool,
                const EvalFlags& flags) {
  MF_ASSIGN_OR_RETURN(const auto tokens, Tokens::Open(flags.data, config.model.vocabulary));
  if (tokens->size() < 2) {
    return Status::Invalid(flags.data + ": too short: one token has nothing to predict");
  }
  MF_ASSIGN_OR_RETURN(const auto compute, MakeCompute(flags.backend, config, tensors, pool));
  MF_ASSIGN_OR_RETURN(const auto scorer,
                      Scorer::Make(config, *compute, std::move(dense), exchange));
  double nll = 0;
  int64_t scored = 0;
  MF_RETURN_IF_ERROR(scorer->Score(
      tokens->size(),
      [&](int64_t begin, int64_t count, uint32_t* ids) { return tokens->Copy(begin, count, ids); },
      [&](std::span<const float> logprobs) {
        for (const float logprob : logprobs) nll -= static_cast<double>(logprob);
        scored += static_cast<int64_t>(logprobs.size());
      },
      flags.windows));
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), nll / static_cast<double>(scored));
  std::printf("val_loss %s nats/token over %lld tokens\n", std::string(text, end.ptr).c_str(),
              static_cast<long long>(scored));
  return Status::Ok();
}

Status EvalExport(const EvalFlags& flags) {
  MF_ASSIGN_OR_RETURN(const auto model, LoadedModel::Open(flags.model));
  ThreadPool pool(ThreadsOrCores(flags.threads));
  LocalExchange exchange(*model, pool);
  return EvalWith(model->config(), model->tensors(), model->dense(), exchange, pool, flags);
}

Status EvalSnapshots(const EvalFlags& flags) {
  const int threads = ThreadsOrCores(flags.threads);
  MF_ASSIGN_OR_RETURN(const auto model, SnapshotModel::Open(flags.model, threads));
  MF_ASSIGN_OR_RETURN(DenseTensors dense, model->Dense());
  ThreadPool pool(threads);
  ComputeGate gate;
  MutexLock computing(gate);
  RemoteExchange exchange(model->tables(), pool, gate, model->at(),
                          /*micro_batch=*/0);
  return EvalWith(model->config(), model->tensors(),
                  std::make_shared<const DenseTensors>(std::move(dense)), exchange, pool, flags);
}

Status Eval(const EvalFlags& flags) {
  return std::filesystem::is_directory(flags.model) ? EvalSnapshots(flags) : EvalExport(flags);
}

}  // namespace

void AddEvalCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand("eval", "The loss of a trained model on a file");
  command
      ->add_option("--model", flags->model, "Exported safetensors file, or a folder of snapshots")
      ->required();
  command->add_option("--data", flags->data, "Text file, directory or .bin tokens")->required();
  command
      ->add_option("--windows", flags->windows,
                   "Windows of model.sequence tokens from the start; 0: the whole file")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--threads", flags->threads, "0: one per core")->check(CLI::Range(0, 1024));
  AddBackendOption(*command, &flags->backend);
  command->callback([flags, exit_code] { *exit_code = Report(Eval(*flags)); });
}

}  // namespace mf
