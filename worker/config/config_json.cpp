// The configuration as JSON (run identity, safetensors files) and as the table of docs/OPTIONS.md.
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "worker/config/base64.h"
#include "worker/config/config.h"
#include "worker/config/config_keys.h"

namespace mf {
namespace {

using nlohmann::json;  // its objects sort their keys

constexpr const char* kTokenizer = "tokenizer";  // beside the sections

json ToJson(const KeyValue& value) {
  return std::visit(
      [](const auto& v) -> json {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::monostate>) {
          return nullptr;
        } else {
          return v;
        }
      },
      value);
}

KeyValue FromJson(const json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}) return {};
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) return value.get<double>();
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    std::vector<double> numbers;
    for (const json& item : value) {
      if (!item.is_number()) return {};
      numbers.push_back(item.get<double>());
    }
    return numbers;
  }
  return {};
}

template <class Wanted>
std::string Dump(const Config& config, Wanted wanted) {
  const Config defaults = UnresolvedConfig();
  json root = json::object();
  for (const ConfigKey& key : ConfigKeys()) {
    if (!wanted(key)) continue;
    const KeyValue value = key.get(config);
    if (key.left_out_by_default && value == key.get(defaults)) continue;
    root[key.section][key.name] = ToJson(value);
  }
  if (!config.tokenizer.empty()) root[kTokenizer] = ToBase64(config.tokenizer);
  return root.dump();
}

}  // namespace

std::string IdentityJson(const Config& config) {
  return Dump(config, [](const ConfigKey& key) { return key.decides_result; });
}

std::string ConfigJson(const Config& config) {
  return Dump(config, [](const ConfigKey&) { return true; });
}

std::string ModelJson(const Config& config) {
  return Dump(config, [](const ConfigKey& key) { return key.section == "model"; });
}

Result<Config> ConfigFromJson(const std::string& text) {
  const std::string where = "configuration";
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return Status::Invalid(where + ": not a JSON object");
  Config config = UnresolvedConfig();
  for (const auto& [section, keys] : root.items()) {
    if (section == kTokenizer && keys.is_string()) {
      const auto content = FromBase64(keys.get_ref<const std::string&>());
      if (!content.has_value()) return Status::Invalid(where + ": tokenizer is not base64");
      config.tokenizer = *content;
      continue;
    }
    if (!keys.is_object() || (keys.empty() && !IsConfigSection(section))) {
      return Status::Invalid(where + ": " + section + " is not a section");
    }
    for (const auto& [key, value] : keys.items()) {
      MF_RETURN_IF_ERROR(SetConfigKey(where, section, key, FromJson(value), config));
    }
  }
  ResolveConfig(config);
  MF_RETURN_IF_ERROR(CheckConfig(config));
  return config;
}

std::string ConfigToml(const Config& config) {
  std::string text, section;
  for (const ConfigKey& key : ConfigKeys()) {
    if (std::exchange(section, key.section) != key.section) text += "[" + section + "]\n";
    text += key.name + " = " + FormatKeyValue(key.get(config)) + "\n";
  }
  return text;
}

std::string ConfigTableMarkdown() {
  const Config defaults = UnresolvedConfig();
  std::string text = "| Key | Default | Allowed | Meaning |\n|---|---|---|---|\n";
  for (const ConfigKey& key : ConfigKeys()) {
    text += "| `" + key.full_name() + "` | `" + FormatKeyValue(key.get(defaults)) + "` | " +
            key.allowed + " | " + key.meaning + " |\n";
  }
  return text;
}

}  // namespace mf
