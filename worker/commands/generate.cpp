// worker generate: text continued by an exported model.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "common/base/random.h"
#include "worker/commands/commands.h"
#include "worker/data/tokens.h"
#include "worker/export/loaded_model.h"
#include "worker/export/local_exchange.h"

namespace mf {
namespace {

struct GenerateFlags {
  std::string model, prompt;
  int64_t tokens = 200;
  double temperature = 0.8;
  uint64_t seed = 1;
  int threads = 0;
};

/// The token that `unit` in [0, 1) picks from softmax(logits / temperature); the likeliest (ties:
/// the lowest id) at temperature 0.
uint32_t Sample(const std::vector<float>& logits, double temperature, double unit) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (temperature == 0) return static_cast<uint32_t>(best - logits.begin());
  std::vector<double> cumulative;
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp((static_cast<double>(logit) - static_cast<double>(*best)) / temperature);
    cumulative.push_back(sum);
  }
  const auto picked = std::upper_bound(cumulative.begin(), cumulative.end(), unit * sum);
  return static_cast<uint32_t>(
      std::min<ptrdiff_t>(picked - cumulative.begin(), std::ssize(logits) - 1));
}

Status Generate(const GenerateFlags& flags) {
  MF_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::Open(flags.model));
  const ModelConfig& m = loaded->config().model;
  if (m.vocabulary > kBytesVocabulary) {
    return Status::Invalid(flags.model + ": its vocabulary of " + std::to_string(m.vocabulary) +
                           " is not bytes; only models of at most " +
                           std::to_string(kBytesVocabulary) + " tokens can generate text");
  }
  std::vector<uint32_t> tokens;
  for (const char c : flags.prompt) tokens.push_back(static_cast<unsigned char>(c));
  // Without a prompt the model begins a document, which follows an end-of-text.
  if (tokens.empty()) tokens.push_back(kEndOfText);
  for (const uint32_t id : tokens) {
    if (id >= static_cast<uint64_t>(m.vocabulary)) {
      return Status::Invalid("--prompt: token id " + std::to_string(id) +
                             " is above the model's vocabulary of " + std::to_string(m.vocabulary));
    }
  }
  ThreadPool pool(ThreadsOrCores(flags.threads));
  LocalExchange exchange(*loaded, pool);
  const Model model(loaded->config(), loaded->tensors(), pool);
  Model::Workspace workspace;
  std::vector<float> logits;
  std::fwrite(flags.prompt.data(), 1, flags.prompt.size(), stdout);
  for (int64_t i = 0; i < flags.tokens; ++i) {
    TokenBatch batch;
    batch.sequences = 1;
    batch.length = std::min(tokens.size(), static_cast<size_t>(m.sequence));
    batch.inputs.assign(tokens.end() - static_cast<ptrdiff_t>(batch.length), tokens.end());
    batch.targets.assign(batch.length, 0);
    MF_RETURN_IF_ERROR(model.LastLogits(*loaded->dense(), batch, exchange, workspace, &logits));
    const auto words = Philox(flags.seed, {static_cast<uint32_t>(i), 0, 0, 0});
    const double unit = RandomUnit(uint64_t{words[0]} << 32 | words[1]);
    const uint32_t token = Sample(logits, flags.temperature, unit);
    if (token == kEndOfText) break;
    tokens.push_back(token);
    std::fputc(static_cast<int>(token), stdout);
    std::fflush(stdout);
  }
  std::fputc('\n', stdout);
  return Status::Ok();
}

}  // namespace

void AddGenerateCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text with an exported model");
  command->add_option("--model", flags->model, "Exported safetensors file")->required();
  command->add_option("--prompt", flags->prompt, "Text to continue; empty: begin a document")
      ->required();
  command->add_option("--tokens", flags->tokens, "At most so many new tokens")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--temperature", flags->temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 1000.0))
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "Of the choices")->capture_default_str();
  command->add_option("--threads", flags->threads, "0: one per core")->check(CLI::Range(0, 1024));
  command->callback([flags, exit_code] { *exit_code = Report(Generate(*flags)); });
}

}  // namespace mf
