#include "worker/exchange/exchange_report.h"

#include <cstdio>

#include "worker/config/tensors.h"

namespace mf {
namespace {

std::string Megabytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g MB", bytes / 1e6);
  return text;
}

/// "qkv" of "blocks.0.qkv.tables".
std::string KindOf(const TensorSpec& tensor) {
  const std::string layer = tensor.layer();
  return layer.substr(layer.rfind('.') + 1);
}

std::string PlacementOf(const Config& config, const TensorSpec& tensor) {
  const double bytes =
      4.0 * static_cast<double>(tensor.total_rows()) * static_cast<double>(tensor.columns);
  if (!tensor.on_device) return "tables on the servers";
  const char* why = config.exchange.placement == Placement::kDevice
                        ? "exchange.placement = device"
                        : "they fit exchange.device_bytes";
  return "GPU workers keep copies of " + Megabytes(bytes) + " a layer (" + why + ")";
}

std::string ModeOf(const Config& config, const TensorSpec& tensor) {
  const ExchangeBytes bytes = BytesOfExchange(config, tensor);
  const bool pull = tensor.mode == ExchangeMode::kPull;
  const std::string here = pull ? "rows" : "sums";
  const std::string there = pull ? "sums" : "rows";
  return (tensor.on_device ? "gradients as " : "exchanged as ") + here + ", " +
         Megabytes(pull ? bytes.pull : bytes.pushdown) + " a micro-batch (as " + there + ": " +
         Megabytes(pull ? bytes.pushdown : bytes.pull) +
         (config.exchange.mode.has_value() ? "; exchange.mode is set)" : ")");
}

}  // namespace

std::vector<std::string> DescribeExchange(const Config& config,
                                          const std::vector<TensorSpec>& tensors) {
  struct Group {
    std::string kind, text;
    int layers;
  };
  std::vector<Group> groups;
  for (const TensorSpec& tensor : tensors) {
    if (tensor.kind != TensorKind::kMemory) continue;
    const std::string kind = KindOf(tensor);
    const std::string text = PlacementOf(config, tensor) + "; " + ModeOf(config, tensor);
    bool found = false;
    for (Group& group : groups) {
      if (group.kind != kind || group.text != text) continue;
      ++group.layers;
      found = true;
    }
    if (!found) groups.push_back({kind, text, 1});
  }
  std::vector<std::string> lines;
  for (const Group& group : groups) {
    lines.push_back(group.kind + ", " + std::to_string(group.layers) + " layers: " + group.text);
  }
  return lines;
}

}  // namespace mf
