#include "worker/commands/commands.h"

#include <CLI/CLI.hpp>

#include "common/base/machine_limits.h"
#include "common/commands/number_option.h"

namespace mf {
void AddBackendOption(CLI::App& command, Backend* backend) {
  const auto take = [backend](const std::string& name) {
    *backend = name == "cpu" ? Backend::kCpu : name == "cuda" ? Backend::kCuda : Backend::kAuto;
  };
  command
      .add_option_function<std::string>(
          "--backend", take, "What computes; auto: a GPU if this build can use one and it is there")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->default_str("auto");
}

void AddModelOptions(CLI::App& command, ModelPlace* place) {
  CLI::Option* model = command.add_option("--model", place->path,
                                          "Exported safetensors file, or a folder of snapshots");
  command
      .add_option("--config", place->config,
                  "TOML file with the [model] of a file that lost its metadata in another program")
      ->needs(model);
  AddModelServersOptions(command, model, place);
}

void AddModelServersOptions(CLI::App& command, CLI::Option* path, ModelPlace* place) {
  CLI::Option* servers =
      AddServersOption(command, &place->servers,
                       "instead of " + path->get_name() + ": the newest state of a cluster's run")
          ->excludes(path);
  command.add_option("--keys", place->keys, "Folder with client.key and server.pub")
      ->needs(servers);
}

void AddDataOptions(CLI::App& command, DataConfig* data) {
  command.add_flag("--binary", data->binary, "Take every byte of a text file as it is");
  const auto take = [data](const std::string& name) {
    data->ids = name == "u16" ? IdType::kU16 : name == "u32" ? IdType::kU32 : IdType::kAuto;
  };
  command.add_option_function<std::string>("--ids", take, "Token ids in a .bin file")
      ->check(CLI::IsMember({"auto", "u16", "u32"}))
      ->default_str("auto");
}

void AddStrideOption(CLI::App& command, int64_t* stride) {
  AddNumber(command, "--stride", stride, 0, 1'000'000'000,
            "Windows begin so many tokens apart, and each scores its last ones; 0: one behind the "
            "other");
}

int ThreadsOrCores(int threads) {
  if (threads > 0) return threads;
  return CpuLimit();
}

Result<std::unique_ptr<ThreadPool>> MakePool(int threads) {
  const int count = ThreadsOrCores(threads);
  MF_RETURN_IF_ERROR(CheckThreads(count - 1));
  return std::make_unique<ThreadPool>(count);
}

}  // namespace mf
