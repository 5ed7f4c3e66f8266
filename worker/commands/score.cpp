// worker score: the log-probability of documents, as JSON lines.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/commands/json_line.h"
#include "worker/data/tokens.h"
#include "worker/export/scorer.h"
#include "worker/export/trained_model.h"

namespace mf {
namespace {

struct ScoreFlags {
  ModelPlace model;
  std::vector<std::string> texts;
  DataConfig how;
  int64_t stride = 0;
  bool per_token = false;
  int threads = 0;
  Backend backend = Backend::kAuto;
};

Status ScoreFile(const std::string& path, const ScoreFlags& flags, const Config& config,
                 const std::shared_ptr<const Tokenizer>& tokenizer, Scorer& scorer) {
  MF_ASSIGN_OR_RETURN(const auto tokens, Tokens::Open(path, config.model.vocabulary,
                                                      {.data = flags.how, .tokenizer = tokenizer}));
  std::vector<uint32_t> ids(static_cast<size_t>(tokens->size()));
  MF_RETURN_IF_ERROR(tokens->Copy(0, tokens->size(), ids.data()));
  std::vector<float> all;
  double nll = 0;
  MF_RETURN_IF_ERROR(scorer.Score(
      tokens->size(),
      [&](int64_t begin, int64_t count, uint32_t* out) {
        std::copy_n(ids.begin() + begin, count, out);
        return Status::Ok();
      },
      [&](std::span<const float> logprobs) {
        for (const float logprob : logprobs) nll -= static_cast<double>(logprob);
        all.insert(all.end(), logprobs.begin(), logprobs.end());
      },
      {.stride = flags.stride}));
  nlohmann::ordered_json line;
  line["tokens"] = all.size();
  line["nll"] = nll;
  if (flags.per_token) {
    // The first token is context only: token_ids[i] has logprobs[i].
    line["token_ids"] = std::vector<uint32_t>(ids.begin() + 1, ids.end());
    line["logprobs"] = all;
  }
  return PrintJsonLine(line);
}

Status ScoreAll(const ScoreFlags& flags) {
  MF_ASSIGN_OR_RETURN(const auto pool, MakePool(flags.threads));
  MF_ASSIGN_OR_RETURN(const auto model, TrainedModel::Open(flags.model, *pool));
  MF_ASSIGN_OR_RETURN(const auto compute,
                      MakeCompute(flags.backend, model->config(), model->tensors(), *pool));
  MF_ASSIGN_OR_RETURN(const auto scorer,
                      Scorer::Make(model->config(), *compute, model->dense(), model->exchange()));
  MF_ASSIGN_OR_RETURN(const auto tokenizer,
                      Tokenizer::Make(model->config().tokenizer, flags.model.name()));
  for (const std::string& path : flags.texts) {
    MF_RETURN_IF_ERROR(ScoreFile(path, flags, model->config(), tokenizer, *scorer));
  }
  return Status::Ok();
}

}  // namespace

void AddScoreCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<ScoreFlags>();
  CLI::App* command = app.add_subcommand(
      "score",
      "Log-probability of documents: a line {\"tokens\", \"nll\"} per file; its first "
      "token is context only and not counted");
  AddModelOptions(*command, &flags->model);
  command->add_option("--text", flags->texts, "Files, each one document")->required();
  AddDataOptions(*command, &flags->how);
  AddStrideOption(*command, &flags->stride);
  command->add_flag("--per-token", flags->per_token, "Add token_ids and logprobs to each line");
  AddNumber(*command, "--threads", &flags->threads, 0, kThreadsMax, "0: one per core");
  AddBackendOption(*command, &flags->backend);
  command->callback([flags, exit_code] { *exit_code = Report(ScoreAll(*flags)); });
}

}  // namespace mf
