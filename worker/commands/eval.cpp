// worker eval: the loss of a trained model on files; its perplexity; and, where the text is known,
// bits a byte, which models with different tokenizers share.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/commands/json_line.h"
#include "worker/commands/progress_line.h"
#include "worker/data/data_files.h"
#include "worker/data/tokens.h"
#include "worker/export/scorer.h"
#include "worker/export/trained_model.h"

namespace mf {
namespace {

std::string ShortOf(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4g", value);
  return text;
}

struct EvalFlags {
  ModelPlace model;
  std::vector<std::string> data;
  DataConfig how;
  Scorer::Windows windows;
  bool json = false;
  int threads = 0;
  Backend backend = Backend::kAuto;
};

/// What one --data, or all of them, came to.
struct Score {
  double nll = 0;
  int64_t tokens = 0;
  uint64_t text_bytes = 0;  // 0: not known, or not all of the text was scored

  double loss() const { return nll / static_cast<double>(tokens); }
  double bits_a_byte() const { return nll / std::log(2) / static_cast<double>(text_bytes); }
};

Result<Score> ScoreData(const std::string& path, const EvalFlags& flags, const Config& config,
                        const std::shared_ptr<const Tokenizer>& tokenizer, Scorer& scorer) {
  MF_ASSIGN_OR_RETURN(const auto tokens, Tokens::Open(path, config.model.vocabulary,
                                                      {.data = flags.how, .tokenizer = tokenizer}));
  if (tokens->size() < 2) {
    return Status::Invalid(path + ": too short: one token has nothing to predict");
  }
  const int64_t predicted = tokens->size() - 1;
  Score score;
  ProgressLine progress;
  MF_RETURN_IF_ERROR(scorer.Score(
      tokens->size(),
      [&](int64_t begin, int64_t count, uint32_t* ids) { return tokens->Copy(begin, count, ids); },
      [&](std::span<const float> logprobs) {
        for (const float logprob : logprobs) score.nll -= static_cast<double>(logprob);
        score.tokens += std::ssize(logprobs);
        progress.Show(static_cast<uint64_t>(score.tokens), static_cast<uint64_t>(predicted),
                      [&](double seconds) {
                        return path + "  " + ShortOf(score.loss()) + " nats/token  " +
                               ShortOf(static_cast<double>(score.tokens) / seconds) + " tokens/s";
                      });
      },
      flags.windows));
  // The first token is not predicted, but its bytes are few.
  if (score.tokens == predicted) score.text_bytes = tokens->text_bytes();
  return score;
}

void PrintLines(const Score& score) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), score.loss());
  std::printf("val_loss %s nats/token over %lld tokens\n", std::string(text, end.ptr).c_str(),
              static_cast<long long>(score.tokens));
  std::printf("perplexity %.4f", std::exp(score.loss()));
  if (score.text_bytes > 0) {
    std::printf(", %.4f bits a byte over %llu bytes", score.bits_a_byte(),
                static_cast<unsigned long long>(score.text_bytes));
  }
  std::printf("\n");
}

Status PrintJson(const std::string& data, const Score& score) {
  nlohmann::ordered_json line;
  line["data"] = data;
  line["tokens"] = score.tokens;
  line["nll"] = score.nll;
  line["loss"] = score.loss();
  line["perplexity"] = std::exp(score.loss());
  if (score.text_bytes > 0) {
    line["bytes"] = score.text_bytes;
    line["bits_a_byte"] = score.bits_a_byte();
  }
  return PrintJsonLine(line);
}

void PrintTable(const std::vector<std::pair<std::string, Score>>& rows) {
  std::printf("%12s  %10s  %12s  %11s  %s\n", "tokens", "nats/token", "perplexity", "bits a byte",
              "data");
  for (const auto& [name, score] : rows) {
    char bits[32] = "-";
    if (score.text_bytes > 0) std::snprintf(bits, sizeof(bits), "%.4f", score.bits_a_byte());
    std::printf("%12lld  %10.6f  %12.4f  %11s  %s\n", static_cast<long long>(score.tokens),
                score.loss(), std::exp(score.loss()), bits, name.c_str());
  }
}

Status Eval(const EvalFlags& flags) {
  MF_RETURN_IF_ERROR(FindAllDataFiles(flags.data, {}).status());  // before hours are spent on some
  MF_ASSIGN_OR_RETURN(const auto pool, MakePool(flags.threads));
  MF_ASSIGN_OR_RETURN(const auto model, TrainedModel::Open(flags.model, *pool));
  const Config& config = model->config();
  MF_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Make(config.tokenizer, flags.model.name()));
  MF_ASSIGN_OR_RETURN(const auto compute,
                      MakeCompute(flags.backend, config, model->tensors(), *pool));
  MF_ASSIGN_OR_RETURN(const auto scorer,
                      Scorer::Make(config, *compute, model->dense(), model->exchange()));
  std::vector<std::pair<std::string, Score>> rows;
  Score total;
  bool all_bytes = true;
  for (const std::string& path : flags.data) {
    MF_ASSIGN_OR_RETURN(const Score score, ScoreData(path, flags, config, tokenizer, *scorer));
    if (flags.json) {
      MF_RETURN_IF_ERROR(PrintJson(path, score));
    }
    rows.emplace_back(path, score);
    total.nll += score.nll;
    total.tokens += score.tokens;
    total.text_bytes += score.text_bytes;
    all_bytes &= score.text_bytes > 0;
  }
  if (!all_bytes) total.text_bytes = 0;
  if (flags.json) return Status::Ok();
  if (rows.size() == 1) {
    PrintLines(total);
    return Status::Ok();
  }
  rows.emplace_back("(all)", total);
  PrintTable(rows);
  return Status::Ok();
}

}  // namespace

void AddEvalCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand("eval", "The loss of a trained model on a file");
  AddModelOptions(*command, &flags->model);
  command
      ->add_option("--data", flags->data,
                   "Text file, directory or .bin tokens; several give a table with a line for each")
      ->required();
  AddDataOptions(*command, &flags->how);
  AddNumber(*command, "--windows", &flags->windows.most, 0, 1'000'000'000'000,
            "Windows of model.sequence tokens from the start; 0: the whole file");
  AddStrideOption(*command, &flags->windows.stride);
  command->add_flag("--json", flags->json, "A line of JSON for each --data");
  AddNumber(*command, "--threads", &flags->threads, 0, kThreadsMax, "0: one per core");
  AddBackendOption(*command, &flags->backend);
  command->callback([flags, exit_code] { *exit_code = Report(Eval(*flags)); });
}

}  // namespace mf
