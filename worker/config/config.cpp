#include "worker/config/config.h"

#include <toml++/toml.h>

#include <string_view>

#include "common/base/input_file.h"
#include "common/base/logging.h"
#include "worker/config/config_keys.h"
#include "worker/config/toml_depth.h"

namespace mf {
namespace {

KeyValue FromToml(const toml::node& node) {
  if (node.is_boolean()) return node.as_boolean()->get();
  if (node.is_integer()) return static_cast<int64_t>(node.as_integer()->get());
  if (node.is_floating_point()) return node.as_floating_point()->get();
  if (node.is_string()) return node.as_string()->get();
  if (const toml::array* array = node.as_array()) {
    std::vector<double> numbers;
    for (const toml::node& item : *array) {
      if (!item.is_number()) return {};
      numbers.push_back(*item.value<double>());
    }
    return numbers;
  }
  return {};
}

Result<toml::table> ParseToml(const std::string& text, const std::string& where) {
  if (const int64_t line = LineOfDeepNesting(text); line != 0) {
    return Status::Invalid(where + ":" + std::to_string(line) +
                           ": nested deeper than any configuration; it has [section] and key = "
                           "value");
  }
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    return Status::Invalid(where + ":" + std::to_string(error.source().begin.line) +
                           ": not valid TOML: " + OneLine(error.description()));
  }
}

Status ReadFile(const std::string& path, Config& config) {
  constexpr size_t kMostBytes = 1 << 24;
  MF_ASSIGN_OR_RETURN(const std::string text,
                      ReadInput(path, "this configuration file", kMostBytes));
  MF_ASSIGN_OR_RETURN(const toml::table root, ParseToml(text, path));
  for (const auto& [section, node] : root) {
    const auto where = [&path](const toml::node& at) {
      return path + ":" + std::to_string(at.source().begin.line);
    };
    const toml::table* keys = node.as_table();
    if (keys == nullptr) {
      return Status::Invalid(where(node) + ": unknown key " + std::string(section.str()) +
                             " outside of any section; keys stand in sections such as [model]");
    }
    const std::string section_name(section.str());
    if (keys->empty() && !IsConfigSection(section_name)) {
      return SetConfigKey(where(node), section_name, "", {}, config);
    }
    for (const auto& [key, value] : *keys) {
      MF_RETURN_IF_ERROR(SetConfigKey(where(value), section_name, std::string(key.str()),
                                      FromToml(value), config));
    }
  }
  return Status::Ok();
}

/// A TOML value; anything that is none is taken as a string without quotes.
KeyValue ParseValue(const std::string& text) {
  // A line break would start another key.
  if (text.find_first_of("\r\n") != std::string::npos) return text;
  const Result<toml::table> parsed = ParseToml("value = " + text, "");
  if (!parsed.ok()) return text;
  const toml::node* node = parsed.value().get("value");
  return node == nullptr ? KeyValue(text) : FromToml(*node);
}

Status ApplyOverride(const std::string& text, Config& config) {
  const std::string where = "--set " + OneLine(text);
  const size_t equals = text.find('=');
  const size_t dot = text.find('.');
  if (equals == std::string::npos || dot == std::string::npos || dot > equals) {
    return Status::Invalid(where + ": it must be section.key=value, such as model.probes=2");
  }
  return SetConfigKey(where, text.substr(0, dot), text.substr(dot + 1, equals - dot - 1),
                      ParseValue(text.substr(equals + 1)), config);
}

std::string Text(int64_t value) { return std::to_string(value); }

/// `where`: what the configuration is called in messages.
Result<Config> Override(Config config, const std::vector<std::string>& overrides,
                        const std::string& where) {
  for (const std::string& text : overrides) MF_RETURN_IF_ERROR(ApplyOverride(text, config));
  ResolveConfig(config);
  const Status status = CheckConfig(config);
  if (!status.ok()) return Status::Invalid(where + ": " + status.message());
  return config;
}

}  // namespace

Result<Config> LoadConfig(const std::string& path, const std::vector<std::string>& overrides) {
  Config config = UnresolvedConfig();
  if (!path.empty()) MF_RETURN_IF_ERROR(ReadFile(path, config));
  return Override(config, overrides, path.empty() ? "configuration" : path);
}

Result<Config> OverrideConfig(Config config, const std::vector<std::string>& overrides) {
  return Override(config, overrides, "configuration");
}

Status CheckConfig(const Config& config) {
  // Each value alone, for a Config that was filled in by code.
  Config copy = config;
  for (const ConfigKey& key : ConfigKeys()) {
    MF_RETURN_IF_ERROR(SetConfigKey("configuration", key.section, key.name, key.get(config), copy));
  }
  const ModelConfig& m = config.model;
  if (m.K == 0) {
    return Status::Invalid("model.d: " + Text(m.d) + " is not a multiple of model.tau = " +
                           Text(m.tau) + "; d must be K * tau");
  }
  if (m.d != m.K * m.tau) {
    return Status::Invalid("model.d: " + Text(m.d) + " is not K * tau = " + Text(m.K) + " * " +
                           Text(m.tau) + " = " + Text(m.K * m.tau) +
                           "; change d, K or tau, or leave K out to get d / tau");
  }
  if (m.d % m.heads != 0) {
    return Status::Invalid("model.heads: " + Text(m.heads) +
                           " does not divide model.d = " + Text(m.d));
  }
  constexpr int64_t kMaxIndexBits = 28;
  if (m.tau + m.expand_bits > kMaxIndexBits) {
    return Status::Invalid("model.expand_bits: tau + expand_bits is " +
                           Text(m.tau + m.expand_bits) + "; allowed: at most " +
                           Text(kMaxIndexBits));
  }
  if (m.probes > m.tau) {
    return Status::Invalid("model.probes: " + Text(m.probes) +
                           " is more than model.tau = " + Text(m.tau) + "; allowed: 1 to tau");
  }
  constexpr int64_t kMaxTokens = int64_t{1} << 24;  // token counts fit u32 with room to spare
  if (config.tokens_per_micro_batch() > kMaxTokens) {
    return Status::Invalid("train.batch: batch * model.sequence is " +
                           Text(config.tokens_per_micro_batch()) + " tokens; allowed: at most " +
                           Text(kMaxTokens));
  }
  constexpr int64_t kMaxColumns = int64_t{1} << 20;  // a row fits a chunk of server memory
  if (std::max(4 * m.d, m.expanded()) > kMaxColumns) {
    return Status::Invalid("model.d: a tensor would have " + Text(std::max(4 * m.d, m.expanded())) +
                           " columns; allowed: at most " + Text(kMaxColumns));
  }
  constexpr int64_t kMaxDenseNumbers = int64_t{1} << 28;  // 1 GiB: one message
  const int64_t matrix = m.projection == Projection::kDense ? 4 * m.d * m.d : 0;
  if (std::max(m.vocabulary * m.d, matrix) > kMaxDenseNumbers) {
    return Status::Invalid(
        "model.vocabulary: vocabulary * d, or 4 * d * d of a dense projection, is " +
        Text(std::max(m.vocabulary * m.d, matrix)) + " numbers; allowed: at most " +
        Text(kMaxDenseNumbers));
  }
  if (config.train.lr * config.train.weight_decay >= 1) {
    return Status::Invalid("train.weight_decay: lr * weight_decay must be below 1");
  }
  return Status::Ok();
}

}  // namespace mf
