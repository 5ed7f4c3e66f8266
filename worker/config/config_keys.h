// The table of all configuration keys. Parsing, checking, JSON and the table of docs/OPTIONS.md are
// all made from it, so that a key is written once. TOML and JSON are turned into KeyValue first:
// neither format's library is seen here.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/base/status.h"
#include "worker/config/config.h"

namespace mf {

/// A value as a file can hold it. monostate: a type that no key has (table, date, ...).
using KeyValue =
    std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<double>>;

struct ConfigKey {
  std::string section;
  std::string name;
  std::string allowed;  // for people: "1 to 24", "sgd, adam"
  std::string meaning;
  bool decides_result;  // false: how a run is carried out, not what comes out
  std::function<KeyValue(const Config&)> get;
  /// Checks type and range, then stores. The message says what is wrong, without file and key.
  std::function<Status(const KeyValue&, Config&)> set;
  /// Came later: JSON has it only where it is not the default, so that runs from before are the
  /// same ones.
  bool left_out_by_default = false;

  std::string full_name() const { return section + "." + name; }
};

/// All keys in the order of the table of docs/OPTIONS.md: by section, then as in the struct.
const std::vector<ConfigKey>& ConfigKeys();

bool IsConfigSection(std::string_view section);

/// Stores a value. `where` is what the error starts with: the file and line, or the flag.
Status SetConfigKey(const std::string& where, const std::string& section, const std::string& name,
                    const KeyValue& value, Config& config);

/// What LoadConfig and ConfigFromJson start from: the defaults with K still to be resolved.
Config UnresolvedConfig();
/// K = 0 becomes d / tau where that divides.
void ResolveConfig(Config& config);

/// As in TOML, for messages and the README: 8, 0.003, "adam", [0.9, 0.95].
std::string FormatKeyValue(const KeyValue& value);

}  // namespace mf
