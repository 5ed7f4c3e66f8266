// worker prepare: text made into shards of token ids.
#include "worker/prepare/prepare.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/commands/progress_line.h"
#include "worker/commands/stop_signal.h"

namespace mf {
namespace {

struct PrepareFlags {
  PrepareOptions options;
  std::string tokenizer;
  int threads = 0;
};

std::string Describe(const PrepareReport& report, uint64_t read, double seconds) {
  char text[128];
  std::snprintf(text, sizeof(text), "%llu documents  %llu tokens  %.1f MB/s of files",
                static_cast<unsigned long long>(report.documents),
                static_cast<unsigned long long>(report.ids),
                static_cast<double>(read) / 1e6 / seconds);
  return text;
}

Status RunPrepare(const PrepareFlags& flags) {
  CatchStopSignals();
  MF_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Open(flags.tokenizer));
  MF_ASSIGN_OR_RETURN(const auto pool, MakePool(flags.threads));
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  PrepareReport report;
  {
    ProgressLine line;
    const auto progress = [&](uint64_t read, uint64_t of, const PrepareReport& so_far) {
      line.Show(read, of, [&](double seconds) { return Describe(so_far, read, seconds); });
      if (!StopSignalCame()) return Status::Ok();
      return Status::Failed("stopped; " + flags.options.out + " is left empty");
    };
    MF_ASSIGN_OR_RETURN(report, Prepare(flags.options, *tokenizer, *pool, progress));
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const double bytes = static_cast<double>(report.text_bytes);
  const auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf("%s: %llu documents of %llu files, %llu tokens of a vocabulary of %lld (%s)\n",
              flags.options.out.c_str(), number(report.documents), number(report.files),
              number(report.ids), static_cast<long long>(tokenizer->vocabulary()),
              tokenizer->kind().c_str());
  std::printf("%.3f bytes a token, %llu bytes of text in %llu shards, %.1f MB/s\n",
              bytes / static_cast<double>(report.ids), number(report.text_bytes),
              number(report.shards), bytes / 1e6 / seconds);
  if (flags.options.drop_duplicates) {
    std::printf("%llu documents were there before and were dropped\n", number(report.duplicates));
  }
  return Status::Ok();
}

}  // namespace

void AddPrepareCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<PrepareFlags>();
  PrepareOptions& options = flags->options;
  CLI::App* command =
      app.add_subcommand("prepare", "Make text into shards of token ids, once for many runs");
  command
      ->add_option("--data", options.data,
                   "Text, JSON lines (.jsonl), either packed by gzip or zstd, folders of them, "
                   "patterns; documents keep this order")
      ->required();
  command->add_option("--out", options.out, "Folder for the shards, empty or not there yet")
      ->required();
  command->add_option("--tokenizer", flags->tokenizer,
                      "tokenizer.json, or a model of SentencePiece; without it bytes are tokens");
  command->add_option("--field", options.field, "The document in a line of JSON (default: text)");
  command->add_flag("--drop-duplicates", options.drop_duplicates,
                    "Documents that were there before, byte by byte (up to 1 MiB each)");
  command->add_flag("--binary", options.binary, "Take every byte of a text file as it is");
  AddNumber(*command, "--shard-tokens", &options.shard_ids, 1, uint64_t{1} << 40,
            "The most ids in one file")
      ->capture_default_str();
  AddNumber(*command, "--threads", &flags->threads, 0, kThreadsMax, "0: one per core");
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeAfterSignal(Report(RunPrepare(*flags))); });
}

}  // namespace mf
