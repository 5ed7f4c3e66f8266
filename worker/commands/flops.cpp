// worker flops: size and cost of a configuration in the paper's convention.
#include "worker/model/flops.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "common/commands/number_option.h"
#include "worker/commands/commands.h"
#include "worker/config/config.h"

namespace mf {
namespace {

struct FlopsFlags {
  std::string config;
  std::vector<std::string> overrides;
  int64_t sequence = 0;
  bool json = false;
};

struct Item {
  const char* name;
  int64_t value;
  const char* meaning;
};

Status PrintFlops(const FlopsFlags& flags) {
  MF_ASSIGN_OR_RETURN(const Config config, LoadConfig(flags.config, flags.overrides));
  const int64_t sequence = flags.sequence > 0 ? flags.sequence : config.model.sequence;
  const FlopsReport report = Flops(config, sequence);
  const Item items[] = {
      {"parameters", report.parameters, "numbers that are trained"},
      {"table_bytes", report.table_bytes, "of the memory layers, as f32"},
      {"block_flops_without_attention", report.block_flops_without_attention, "of one block"},
      {"block_flops", report.block_flops, "with attention"},
      {"model_flops", report.model_flops, "all blocks and the head"},
  };
  if (flags.json) {
    nlohmann::ordered_json object;
    for (const Item& item : items) object[item.name] = item.value;
    std::printf("%s\n", object.dump().c_str());
    return Status::Ok();
  }
  std::printf("for %lld tokens\n", static_cast<long long>(sequence));
  for (const Item& item : items) {
    std::printf("%-30s %12.4g  %s\n", item.name, static_cast<double>(item.value), item.meaning);
  }
  return Status::Ok();
}

}  // namespace

void AddFlopsCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<FlopsFlags>();
  CLI::App* command =
      app.add_subcommand("flops", "Parameters, bytes and FLOPs of a forward pass of a model");
  command->add_option("--config", flags->config, "TOML file")->required();
  command->add_option("--set", flags->overrides, "section.key=value, over the file")
      ->allow_extra_args(false);
  AddNumber(*command, "--sequence", &flags->sequence, 0, 1'048'576, "Tokens; 0: model.sequence");
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback([flags, exit_code] { *exit_code = Report(PrintFlops(*flags)); });
}

}  // namespace mf
