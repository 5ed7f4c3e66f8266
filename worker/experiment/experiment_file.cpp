#include "worker/experiment/experiment_file.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "common/base/input_file.h"
#include "common/base/logging.h"
#include "worker/config/toml_depth.h"

namespace mf {
namespace {

constexpr size_t kMostBytes = 1 << 20;
constexpr size_t kMostVariants = 1000, kMostSeeds = 1000;
constexpr uint64_t kSeedMax = uint64_t{1} << 53;

/// What toml++ throws at, and where.
struct Wrong {
  int64_t line;
  std::string what;
};

/// Of a folder beside what the experiment writes itself.
bool IsName(std::string_view name) {
  if (name == "lock" || name.starts_with("results.") || name.starts_with("loss-by-")) return false;
  return !name.empty() && name.size() <= 100 && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
         });
}

/// Functions throw Wrong.
class Reader {
 public:
  explicit Reader(const std::string& path)
      : folder_(std::filesystem::path(path).parent_path().string()) {}

  Experiment Read(const toml::table& root) {
    CheckKeys(root, {"config", "data", "val", "steps", "seeds", "set", "variant"});
    Experiment experiment;
    experiment.data = Path(root, "data");
    experiment.validation = Path(root, "val");
    experiment.seeds = Seeds(root);
    const std::string config = Path(root, "config");
    std::vector<std::string> overrides = Texts(root, "set");
    if (const toml::node* steps = root.get("steps"); steps != nullptr) {
      const auto count = steps->value_exact<int64_t>();
      if (!count.has_value()) throw Wrong{LineOf(*steps), "steps is no whole number"};
      overrides.push_back("train.steps=" + std::to_string(*count));
    }
    const toml::node* list = root.get("variant");
    const toml::array* variants = list == nullptr ? nullptr : list->as_array();
    if (variants == nullptr || variants->empty() || variants->size() > kMostVariants) {
      throw Wrong{list == nullptr ? 1 : LineOf(*list), "has no [[variant]] to compare"};
    }
    std::set<std::string> names;
    for (const toml::node& node : *variants) {
      experiment.variants.push_back(Variant(node, config, overrides));
      if (!names.insert(experiment.variants.back().name).second) {
        throw Wrong{LineOf(node), "two variants have the name " + experiment.variants.back().name};
      }
    }
    return experiment;
  }

 private:
  static int64_t LineOf(const toml::node& node) { return node.source().begin.line; }

  static void CheckKeys(const toml::table& table, const std::set<std::string_view>& known) {
    for (const auto& [key, value] : table) {
      if (known.contains(key.str())) continue;
      throw Wrong{LineOf(value), "unknown key " + std::string(key.str())};
    }
  }
  static std::string Text(const toml::table& table, const char* key) {
    const toml::node* node = table.get(key);
    if (node == nullptr) return "";
    const auto text = node->value_exact<std::string>();
    if (!text.has_value()) throw Wrong{LineOf(*node), std::string(key) + " is no text"};
    return *text;
  }
  std::string Path(const toml::table& table, const char* key) const {
    const std::string text = Text(table, key);
    if (text.empty() || text[0] == '/' || folder_.empty()) return text;
    return (std::filesystem::path(folder_) / text).lexically_normal().string();
  }
  static std::vector<std::string> Texts(const toml::table& table, const char* key) {
    std::vector<std::string> texts;
    const toml::node* node = table.get(key);
    if (node == nullptr) return texts;
    const toml::array* array = node->as_array();
    if (array == nullptr) throw Wrong{LineOf(*node), std::string(key) + " is no list of texts"};
    for (const toml::node& item : *array) {
      const auto text = item.value_exact<std::string>();
      if (!text.has_value()) throw Wrong{LineOf(item), std::string(key) + " is no list of texts"};
      texts.push_back(*text);
    }
    return texts;
  }
  static std::vector<uint64_t> Seeds(const toml::table& root) {
    const toml::node* node = root.get("seeds");
    if (node == nullptr) return {1, 2, 3};
    const toml::array* array = node->as_array();
    std::vector<uint64_t> seeds;
    for (size_t i = 0; array != nullptr && i < array->size(); ++i) {
      const auto seed = array->get(i)->value_exact<int64_t>();
      if (!seed.has_value() || *seed < 0 || static_cast<uint64_t>(*seed) > kSeedMax) {
        throw Wrong{LineOf(*node), "seeds are whole numbers from 0 to 2^53"};
      }
      if (std::count(seeds.begin(), seeds.end(), static_cast<uint64_t>(*seed)) > 0) {
        throw Wrong{LineOf(*node), "seed " + std::to_string(*seed) + " stands there twice"};
      }
      seeds.push_back(static_cast<uint64_t>(*seed));
    }
    if (seeds.empty() || seeds.size() > kMostSeeds) {
      throw Wrong{LineOf(*node), "seeds is no list of 1 to 1000 whole numbers"};
    }
    return seeds;
  }
  ExperimentVariant Variant(const toml::node& node, const std::string& config,
                            const std::vector<std::string>& overrides) const {
    const toml::table* table = node.as_table();
    if (table == nullptr) throw Wrong{LineOf(node), "variant is no [[variant]]"};
    CheckKeys(*table, {"name", "config", "set"});
    ExperimentVariant variant{.name = Text(*table, "name"),
                              .config = Path(*table, "config"),
                              .overrides = overrides,
                              .resolved = {}};
    if (!IsName(variant.name)) {
      throw Wrong{
          LineOf(node),
          "a variant needs a name of its own, of letters, digits, '-', '_' and '.', not \"" +
              OneLine(variant.name) + "\""};
    }
    if (variant.config.empty()) variant.config = config;
    if (variant.config.empty())
      throw Wrong{LineOf(node), "variant " + variant.name + ": no config"};
    for (std::string& text : Texts(*table, "set")) variant.overrides.push_back(std::move(text));
    auto resolved = LoadConfig(variant.config, variant.overrides);
    if (!resolved.ok()) {
      throw Wrong{LineOf(node), "variant " + variant.name + ": " + resolved.status().message()};
    }
    variant.resolved = std::move(resolved).value();
    return variant;
  }

  const std::string folder_;
};

}  // namespace

Result<Experiment> ReadExperiment(const std::string& path) {
  MF_ASSIGN_OR_RETURN(const std::string text, ReadInput(path, "this experiment", kMostBytes));
  const auto wrong = [&path](int64_t line, const std::string& what) {
    return Status::Invalid(path + ":" + std::to_string(line) + ": " + what);
  };
  if (const int64_t line = LineOfDeepNesting(text); line != 0) {
    return wrong(line, "nested deeper than any experiment");
  }
  try {
    Experiment experiment = Reader(path).Read(toml::parse(text));
    experiment.name = std::filesystem::path(path).stem().string();
    return experiment;
  } catch (const toml::parse_error& error) {
    return wrong(error.source().begin.line, "not valid TOML: " + OneLine(error.description()));
  } catch (const Wrong& fault) {
    return wrong(fault.line, fault.what);
  }
}

}  // namespace mf
