// worker generate: text continued by a trained model.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string_view>

#include "common/base/input_file.h"
#include "common/base/random.h"
#include "common/base/run_program.h"
#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/export/sampler.h"
#include "worker/export/trained_model.h"
#include "worker/tokenizer/text_cuts.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {
namespace {

struct GenerateFlags {
  ModelPlace model;
  std::string prompt, prompt_file;
  std::vector<std::string> stop;
  Sampling sampling;
  int64_t tokens = 200;
  uint64_t seed = 1, samples = 1;
  int threads = 0;
};

constexpr size_t kPromptMax = size_t{64} << 20;

/// Text that grows by tokens: what of it is certain is printed.
class Printer {
 public:
  Printer(const Tokenizer& tokenizer, const std::vector<uint32_t>& prompt,
          const std::vector<std::string>& stop)
      : tokenizer_(tokenizer), stop_(stop), printed_(tokenizer.Decode(prompt).size()) {
    begin_ = printed_;
    for (const std::string& text : stop) longest_ = std::max(longest_, text.size());
  }

  /// A character whose last bytes are still to come waits for them, and so does what may become a
  /// text of --stop, unless this is the `end`. True if such a text is there: it is not printed, nor
  /// anything after it.
  Result<bool> Print(const std::vector<uint32_t>& tokens, bool end) {
    const std::string text = tokenizer_.Decode(tokens);
    size_t stop = std::string::npos;
    for (const std::string& one : stop_) stop = std::min(stop, text.find(one, begin_));
    size_t certain = end ? text.size() : CertainBytes(text);
    if (!end && longest_ > 0)
      certain = std::min(certain, text.size() - std::min(text.size(), longest_ - 1));
    certain = std::min(certain, stop);
    if (certain > printed_) {
      std::fwrite(text.data() + printed_, 1, certain - printed_, stdout);
      printed_ = certain;
      MF_RETURN_IF_ERROR(FlushOutput());  // nobody may be left to read
    }
    return stop != std::string::npos;
  }

 private:
  /// Without a character that is not whole, and without what SentencePiece puts in its place.
  static size_t CertainBytes(std::string_view text) {
    constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
    while (text.ends_with(kReplacement)) text.remove_suffix(kReplacement.size());
    for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
      const auto byte = static_cast<uint8_t>(text[text.size() - back]);
      if (byte < 0x80) break;
      if (byte < 0xC0) continue;  // the lead byte is before it
      const size_t needed = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
      return needed > back ? text.size() - back : text.size();
    }
    return text.size();
  }

  const Tokenizer& tokenizer_;
  const std::vector<std::string>& stop_;
  size_t longest_ = 0;  // of stop_
  size_t begin_ = 0;    // where the prompt ends
  size_t printed_;
};

/// The ids of --prompt; where it is empty, of what stands before a document: the end of another.
Result<std::vector<uint32_t>> PromptOf(const GenerateFlags& flags, const Tokenizer& tokenizer,
                                       int64_t vocabulary) {
  std::vector<uint32_t> ids;
  MF_RETURN_IF_ERROR(EncodeParts(tokenizer, flags.prompt, &ids));
  if (ids.empty()) {
    if (!tokenizer.end_of_text().has_value()) {
      return Status::Invalid("--prompt: empty, and " + flags.model.name() +
                             " has no token for the end of a text; give it a text to continue");
    }
    ids.push_back(*tokenizer.end_of_text());
  }
  for (const uint32_t id : ids) {
    if (id < static_cast<uint64_t>(vocabulary)) continue;
    return Status::Invalid("--prompt: token id " + std::to_string(id) +
                           " is above the model's vocabulary of " + std::to_string(vocabulary));
  }
  return ids;
}

/// Takes in the last `fresh` tokens. At servers whose run goes on meanwhile each token comes from
/// one state, the newest: all is computed anew with that.
Status Extend(TrainedModel& trained, const Model& model, const std::vector<uint32_t>& tokens,
              size_t fresh, Model::Workspace& workspace, Model::Context* context,
              std::vector<float>* logits) {
  constexpr std::chrono::seconds kPatience(10);
  const auto begin = std::chrono::steady_clock::now();
  const size_t length = context->length() + fresh;
  for (;;) {
    const Status status =
        model.Extend(*trained.dense(), {tokens.end() - static_cast<ptrdiff_t>(fresh), tokens.end()},
                     trained.exchange(), workspace, context, logits);
    if (status.ok() || std::chrono::steady_clock::now() - begin > kPatience) return status;
    MF_ASSIGN_OR_RETURN(const bool moved, trained.TakeNewest(status));
    if (!moved) return status;
    context->Truncate(0);
    fresh = length;
  }
}

/// Continues the prompt once. Of the samples of a seed each has numbers of its own.
Status Continue(const GenerateFlags& flags, TrainedModel& trained, const Tokenizer& tokenizer,
                const Model& model, Model::Workspace& workspace, std::vector<uint32_t> tokens,
                uint32_t sample) {
  const auto sequence = static_cast<size_t>(trained.config().model.sequence);
  Model::Context context;
  size_t fresh = std::min(tokens.size(), sequence);  // the last of `tokens`: not in the context yet
  std::vector<float> logits;
  std::fwrite(flags.prompt.data(), 1, flags.prompt.size(), stdout);
  Printer printer(tokenizer, tokens, flags.stop);
  for (int64_t i = 0; i < flags.tokens; ++i) {
    if (context.length() + fresh > sequence) {
      // Positions are counted from its first token: without that one all is computed anew, so half
      // of it goes at once.
      context.Truncate(0);
      fresh = std::max<size_t>(1, sequence / 2);
    }
    MF_RETURN_IF_ERROR(Extend(trained, model, tokens, fresh, workspace, &context, &logits));
    // A vocabulary that was made larger has ids of no token.
    if (std::ssize(logits) > tokenizer.vocabulary()) {
      logits.resize(static_cast<size_t>(tokenizer.vocabulary()));
    }
    const auto words = Philox(flags.seed, {static_cast<uint32_t>(i), sample, 0, 0});
    const double unit = RandomUnit(uint64_t{words[0]} << 32 | words[1]);
    const uint32_t token = Sample(logits, tokens, flags.sampling, unit);
    if (token == tokenizer.end_of_text()) break;
    tokens.push_back(token);
    fresh = 1;
    MF_ASSIGN_OR_RETURN(const bool stopped, printer.Print(tokens, /*end=*/false));
    if (stopped) break;
  }
  MF_RETURN_IF_ERROR(printer.Print(tokens, /*end=*/true).status());
  std::fputc('\n', stdout);
  return Status::Ok();
}

Status Generate(GenerateFlags flags) {
  if (flags.prompt_file == "-") {
    flags.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else if (!flags.prompt_file.empty()) {
    MF_ASSIGN_OR_RETURN(flags.prompt, ReadInput(flags.prompt_file, "the prompt", kPromptMax));
  }
  for (const std::string& stop : flags.stop) {
    if (stop.empty()) return Status::Invalid("--stop: empty; give the text that ends the output");
  }
  MF_ASSIGN_OR_RETURN(const auto pool, MakePool(flags.threads));
  MF_ASSIGN_OR_RETURN(const auto trained, TrainedModel::Open(flags.model, *pool));
  const ModelConfig& m = trained->config().model;
  MF_ASSIGN_OR_RETURN(const auto tokenizer,
                      Tokenizer::Make(trained->config().tokenizer, flags.model.name()));
  if (m.vocabulary > tokenizer->vocabulary() && trained->config().tokenizer.empty()) {
    return Status::Invalid(flags.model.name() + ": its vocabulary of " +
                           std::to_string(m.vocabulary) +
                           " is not bytes, and it carries no tokenizer, so its tokens cannot be "
                           "made into text; train with data.tokenizer, or on what `worker "
                           "prepare` made");
  }
  MF_ASSIGN_OR_RETURN(const std::vector<uint32_t> prompt,
                      PromptOf(flags, *tokenizer, m.vocabulary));
  const Model model(trained->config(), trained->tensors(), *pool);
  Model::Workspace workspace;
  for (uint32_t sample = 0; sample < flags.samples; ++sample) {
    if (flags.samples > 1)
      std::printf("--- sample %u of %u\n", sample + 1, static_cast<unsigned>(flags.samples));
    MF_RETURN_IF_ERROR(Continue(flags, *trained, *tokenizer, model, workspace, prompt, sample));
  }
  return Status::Ok();
}

}  // namespace

void AddGenerateCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text with a trained model");
  AddModelOptions(*command, &flags->model);
  CLI::Option* file = command->add_option("--prompt-file", flags->prompt_file,
                                          "The text to continue from a file; -: standard input");
  CLI::Option* prompt =
      command->add_option("--prompt", flags->prompt, "Text to continue; empty: begin a document");
  prompt->excludes(file);
  AddNumber(*command, "--tokens", &flags->tokens, 0, 1'000'000'000'000,
            "At most so many new tokens")
      ->capture_default_str();
  AddNumber(*command, "--temperature", &flags->sampling.temperature, 0, 1000,
            "0: always the likeliest token")
      ->capture_default_str();
  AddNumber(*command, "--top-k", &flags->sampling.top_k, 0, int64_t{1} << 24,
            "Only of the K likeliest tokens; 0: of all")
      ->capture_default_str();
  AddNumber(*command, "--top-p", &flags->sampling.top_p, 1e-6, 1,
            "Only of the fewest likeliest that together have this probability")
      ->capture_default_str();
  AddNumber(*command, "--repetition-penalty", &flags->sampling.repetition_penalty, 0.01, 100,
            "Tokens that are there already become less likely above 1")
      ->capture_default_str();
  command->add_option("--stop", flags->stop, "End before this text; may be given several times")
      ->allow_extra_args(false);
  AddNumber(*command, "--samples", &flags->samples, 1, 1'000'000, "So many continuations")
      ->capture_default_str();
  AddNumber(*command, "--seed", &flags->seed, 0, UINT64_MAX, "Of the choices")
      ->capture_default_str();
  AddNumber(*command, "--threads", &flags->threads, 0, kThreadsMax, "0: one per core");
  command->callback([flags, prompt, file, exit_code] {
    const bool given = prompt->count() + file->count() > 0;
    *exit_code =
        Report(given ? Generate(*flags)
                     : Status::Invalid("--prompt or --prompt-file is required; see --help"));
  });
}

}  // namespace mf
