// worker export: the newest state that a folder of snapshots holds, as one safetensors file.
#include "worker/export/export.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "worker/commands/commands.h"
#include "worker/export/snapshot_model.h"

namespace mf {
namespace {

struct ExportFlags {
  std::string from, out, rows = "all";
  int threads = 0;
};

Status Run(const ExportFlags& flags) {
  MF_RETURN_IF_ERROR(CheckExportPlace("--out", flags.out));
  MF_ASSIGN_OR_RETURN(const auto model,
                      SnapshotModel::Open(flags.from, ThreadsOrCores(flags.threads)));
  MF_RETURN_IF_ERROR(Export(model->tables(), model->config(), model->tensors(), model->at(),
                            flags.rows == "touched" ? ExportRows::kTouched : ExportRows::kAll,
                            flags.out));
  std::printf("step %llu exported to %s\n", static_cast<unsigned long long>(model->at().step),
              flags.out.c_str());
  return Status::Ok();
}

}  // namespace

void AddExportCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* command =
      app.add_subcommand("export", "The newest state in a folder of snapshots as one file");
  command->add_option("--from", flags->from, "Folder of the snapshots: pserver's --data, OUT/state")
      ->required();
  command->add_option("--out", flags->out, "FILE.safetensors")->required();
  command->add_option("--rows", flags->rows, "What to export of the tables")
      ->check(CLI::IsMember({"all", "touched"}))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "0: one per core")->check(CLI::Range(0, 1024));
  command->callback([flags, exit_code] { *exit_code = Report(Run(*flags)); });
}

}  // namespace mf
