// worker export: the newest state that a folder of snapshots or a running cluster holds, as one
// safetensors file or as a folder for Hugging Face's transformers.
#include "worker/export/export.h"

#include <pthread.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>

#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/commands/stop_signal.h"
#include "worker/export/hf_export.h"
#include "worker/export/safetensors.h"
#include "worker/export/trained_model.h"
#include "worker/train/report.h"

namespace mf {
namespace {

struct ExportFlags {
  ModelPlace from;
  std::string out, rows = "all", format = "safetensors";
  double file_gigabytes = 5;
  int threads = 0;
};

pthread_t g_writer;  // the thread that writes the model

/// Half a model is nobody's. In the thread that writes it: in another one the file might be made
/// between this and the end.
void OnSignal(int signal) {
  if (pthread_equal(pthread_self(), g_writer) == 0) {
    pthread_kill(g_writer, signal);
    return;
  }
  SafetensorsWriter::RemoveUnfinished();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void RemoveUnfinishedOnSignals() {
  g_writer = pthread_self();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (std::signal(signal, OnSignal) == SIG_IGN) std::signal(signal, SIG_IGN);
  }
}

/// What the report of the run beside its snapshots says of this step; nothing without one.
std::string FiguresOf(const std::string& from, uint64_t step) {
  char text[160] = "";
  for (const StepReport& report : ReadMetrics(from + "/../metrics.jsonl")) {
    if (report.step > static_cast<int64_t>(step)) break;
    const long long tokens = report.tokens;
    if (report.val_loss.has_value()) {
      std::snprintf(text, sizeof(text),
                    "| loss on held-out text, step %lld | %.4f nats a token, after %lld tokens |\n",
                    static_cast<long long>(report.step), *report.val_loss, tokens);
    }
  }
  return text;
}

Status Run(const ExportFlags& flags) {
  if (flags.from.name().empty()) {
    return Status::Invalid("--from or --pservers is required; see --help");
  }
  const bool hf = flags.format == "hf";
  if (!hf) RemoveUnfinishedOnSignals();
  if (hf && flags.rows != "all") return Status::Invalid("--rows: a folder has all rows");
  if (!hf) MF_RETURN_IF_ERROR(CheckExportPlace("--out", flags.out, OutputKind::kModel));
  MF_ASSIGN_OR_RETURN(const auto pool, MakePool(flags.threads));
  MF_ASSIGN_OR_RETURN(const auto model, TrainedModel::Open(flags.from, *pool));
  if (hf) CatchStopSignals();  // to be looked at from now on
  const ExportRows rows = flags.rows == "touched" ? ExportRows::kTouched : ExportRows::kAll;
  std::string what = flags.from.name();
  std::string figures;
  if (model->step().has_value()) {
    what = "step " + std::to_string(*model->step());
    if (!flags.from.path.empty()) figures = FiguresOf(flags.from.path, *model->step());
  }
  const auto bytes = static_cast<uint64_t>(flags.file_gigabytes * 1e9);
  MF_RETURN_IF_ERROR(
      hf ? ExportHf(model->reader(), model->config(), model->tensors(),
                    {.folder = flags.out,
                     .file_bytes = bytes,
                     .figures = figures,
                     .stopped = StopSignalCame})
         : Export(model->reader(), model->config(), model->tensors(), rows, flags.out));
  std::printf("%s exported to %s\n", what.c_str(), flags.out.c_str());
  return Status::Ok();
}

}  // namespace

void AddExportCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* command =
      app.add_subcommand("export", "The newest state of a run as one file, or for other programs");
  CLI::Option* from =
      command->add_option("--from", flags->from.path,
                          "Folder of the snapshots: pserver's --data, OUT/state; or an exported "
                          "file");
  AddModelServersOptions(*command, from, &flags->from);
  command->add_option("--out", flags->out, "FILE.safetensors, or the folder of --format hf")
      ->required();
  command
      ->add_option("--format", flags->format,
                   "hf: a folder for Hugging Face's transformers, with the model's code")
      ->check(CLI::IsMember({"safetensors", "hf"}))
      ->capture_default_str();
  AddNumber(*command, "--file-gigabytes", &flags->file_gigabytes, 1e-6, 1e6,
            "The most that a file of --format hf has, if it is not one tensor")
      ->capture_default_str();
  command->add_option("--rows", flags->rows, "What to export of the tables")
      ->check(CLI::IsMember({"all", "touched"}))
      ->capture_default_str();
  AddNumber(*command, "--threads", &flags->threads, 0, kThreadsMax, "0: one per core");
  command->callback([flags, exit_code] { *exit_code = ExitCodeAfterSignal(Report(Run(*flags))); });
}

}  // namespace mf
