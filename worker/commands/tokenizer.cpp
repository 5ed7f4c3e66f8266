// worker tokenizer: trains a tokenizer on a text.
#include "worker/tokenizer/tokenizer.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "common/base/files.h"
#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/prepare/train_sentencepiece.h"

namespace mf {
namespace {

struct TokenizerFlags {
  SentencePieceOptions options;
  std::string out, model = "unigram";
  int threads = 0;
};

Status TrainTokenizer(const TokenizerFlags& flags) {
  SentencePieceOptions options = flags.options;
  options.bpe = flags.model == "bpe";
  options.threads = ThreadsOrCores(flags.threads);
  options.out = flags.out;
  if (FileExists(flags.out)) {
    return Status::Invalid("--out " + flags.out + ": is there already; give another name");
  }
  MF_ASSIGN_OR_RETURN(std::string content, TrainSentencePiece(options));
  MF_RETURN_IF_ERROR(MakeFolder(FolderOf(flags.out)));
  MF_RETURN_IF_ERROR(PublishFile(flags.out, content));
  MF_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Make(std::move(content), flags.out));
  std::printf("%s: %lld ids (%s, %s), SHA-256 %s\n", flags.out.c_str(),
              static_cast<long long>(tokenizer->vocabulary()), tokenizer->kind().c_str(),
              flags.model.c_str(), tokenizer->Digest().c_str());
  return Status::Ok();
}

}  // namespace

void AddTokenizerCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<TokenizerFlags>();
  SentencePieceOptions& options = flags->options;
  CLI::App* command =
      app.add_subcommand("tokenizer", "Train a tokenizer (SentencePiece) on a text");
  command->add_option("--data", options.data, "Text or JSON lines, as of `worker prepare`")
      ->required();
  command->add_option("--out", flags->out, "File of the model: FILE.model")->required();
  AddNumber(*command, "--vocabulary", &options.vocabulary, 300, 1'000'000, "Ids")
      ->capture_default_str();
  command->add_option("--model", flags->model, "How a text is cut")
      ->check(CLI::IsMember({"unigram", "bpe"}))
      ->capture_default_str();
  command->add_option("--field", options.field, "The document in a line of JSON (default: text)");
  AddNumber(*command, "--lines", &options.lines, 101, 100'000'000,
            "At most so many lines are trained on, drawn from all")
      ->capture_default_str();
  AddNumber(*command, "--threads", &flags->threads, 0, kThreadsMax, "0: one per core");
  command->callback([flags, exit_code] { *exit_code = Report(TrainTokenizer(*flags)); });
}

}  // namespace mf
