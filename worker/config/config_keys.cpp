#include "worker/config/config_keys.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace mf {
namespace {

/// Shortest text that reads back as the same double.
std::string FormatNumber(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value);
  return std::string(text, end.ptr);
}

constexpr float kSmallestFloat = std::numeric_limits<float>::min();  // with all its digits

enum class Ends { kClosed, kOpenLow, kOpenHigh };

struct Bounds {
  double low;
  double high;
  Ends ends = Ends::kClosed;

  bool Holds(double value) const {  // false for NaN
    const bool above = ends == Ends::kOpenLow ? value > low : value >= low;
    const bool below = ends == Ends::kOpenHigh ? value < high : value <= high;
    return above && below;
  }
  /// As integers: beyond 2^53 a double is another number. The ends are whole.
  bool HoldsWhole(int64_t value) const {
    return value >= static_cast<int64_t>(low) && value <= static_cast<int64_t>(high);
  }
  /// What must be more than 0 is divided by, as float32: there it must not be 0, or so small that
  /// its inverse is infinite.
  bool HoldsAsFloat(double value) const {
    return ends != Ends::kOpenLow || static_cast<float>(value) >= kSmallestFloat;
  }
  std::string Text() const {
    std::string text = FormatNumber(low) + " to " + FormatNumber(high);
    if (ends == Ends::kOpenLow) text += ", more than " + FormatNumber(low);
    if (ends == Ends::kOpenHigh) text += ", less than " + FormatNumber(high);
    return text;
  }
};

struct Choices {
  std::vector<std::string> words;

  std::string Text() const {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
    return text;
  }
};

/// Of an enum that servers know, too: its names stand beside it.
template <class Names>
Choices WordsOf(const Names& names) {
  return {{names.begin(), names.end()}};
}

Status WrongType(const char* wanted, const KeyValue& value) {
  if (std::holds_alternative<std::monostate>(value)) {
    return Status::Invalid(std::string("wrong type; it must be ") + wanted);
  }
  return Status::Invalid(FormatKeyValue(value) + " has the wrong type; it must be " + wanted);
}

Status OutOfRange(const KeyValue& value) {
  return Status::Invalid(FormatKeyValue(value) + " is out of range");
}

Status TooSmall(const KeyValue& value) {
  return Status::Invalid(FormatKeyValue(value) +
                         " is too small for float32, which computes with it: it must be at least "
                         "1.2e-38");
}

/// The member that a field accessor names, for reading a const Config through the same accessor.
template <class Field>
auto Read(Field field, const Config& config) {
  return field(const_cast<Config&>(config));  // the accessor only forms a reference
}

class Table {
 public:
  /// `path` is "section.key", as the member is written in C++.
  template <class Field>
  void Integer(std::string_view path, Field field, Bounds bounds, const char* meaning) {
    Add(
        path, bounds.Text(), meaning,
        [field](const Config& c) { return KeyValue(static_cast<int64_t>(Read(field, c))); },
        [field, bounds](const KeyValue& value, Config& c) {
          const int64_t* number = std::get_if<int64_t>(&value);
          if (number == nullptr) return WrongType("a whole number", value);
          if (!bounds.HoldsWhole(*number)) return OutOfRange(value);
          using T = std::remove_reference_t<decltype(field(c))>;
          field(c) = static_cast<T>(*number);
          return Status::Ok();
        });
  }

  template <class Field>
  void Real(std::string_view path, Field field, Bounds bounds, const char* meaning) {
    Add(
        path, bounds.Text(), meaning, [field](const Config& c) { return KeyValue(Read(field, c)); },
        [field, bounds](const KeyValue& value, Config& c) {
          double number = 0;
          if (const double* real = std::get_if<double>(&value)) {
            number = *real;
          } else if (const int64_t* whole = std::get_if<int64_t>(&value)) {
            number = static_cast<double>(*whole);
          } else {
            return WrongType("a number", value);
          }
          if (!bounds.Holds(number)) return OutOfRange(value);
          if (!bounds.HoldsAsFloat(number)) return TooSmall(value);
          field(c) = number;
          return Status::Ok();
        });
  }

  template <class Field>
  void Flag(std::string_view path, Field field, const char* meaning) {
    Add(
        path, "true, false", meaning, [field](const Config& c) { return KeyValue(Read(field, c)); },
        [field](const KeyValue& value, Config& c) {
          const bool* flag = std::get_if<bool>(&value);
          if (flag == nullptr) return WrongType("true or false", value);
          field(c) = *flag;
          return Status::Ok();
        });
  }

  /// A file.
  template <class Field>
  void Path(std::string_view path, Field field, const char* meaning) {
    Add(
        path, "a path", meaning, [field](const Config& c) { return KeyValue(Read(field, c)); },
        [field](const KeyValue& value, Config& c) {
          const std::string* text = std::get_if<std::string>(&value);
          if (text == nullptr) return WrongType("a path in quotes", value);
          field(c) = *text;
          return Status::Ok();
        });
  }

  /// `choices` in the order of the enum's values.
  template <class Field>
  void Enum(std::string_view path, Field field, Choices choices, const char* meaning) {
    Add(
        path, choices.Text(), meaning,
        [field, choices](const Config& c) {
          return KeyValue(choices.words[static_cast<size_t>(Read(field, c))]);
        },
        [field, choices](const KeyValue& value, Config& c) {
          size_t index = 0;
          MF_RETURN_IF_ERROR(Choose(value, choices, &index));
          field(c) = static_cast<std::remove_reference_t<decltype(field(c))>>(index);
          return Status::Ok();
        });
  }

  /// The same of an optional enum; `none` is the word for no value.
  template <class Field>
  void OptionalEnum(std::string_view path, Field field, const char* none, Choices choices,
                    const char* meaning) {
    choices.words.insert(choices.words.begin(), none);
    Add(
        path, choices.Text(), meaning,
        [field, choices](const Config& c) {
          const auto value = Read(field, c);
          return KeyValue(choices.words[value.has_value() ? 1 + static_cast<size_t>(*value) : 0]);
        },
        [field, choices](const KeyValue& value, Config& c) {
          size_t index = 0;
          MF_RETURN_IF_ERROR(Choose(value, choices, &index));
          auto& chosen = field(c);
          chosen.reset();
          using T = typename std::remove_reference_t<decltype(chosen)>::value_type;
          if (index > 0) chosen = static_cast<T>(index - 1);
          return Status::Ok();
        });
  }

  /// A key that is an array of two numbers.
  template <class First, class Second>
  void Pair(std::string_view path, First first, Second second, Bounds bounds, const char* meaning) {
    Add(
        path, "two numbers, " + bounds.Text(), meaning,
        [first, second](const Config& c) {
          return KeyValue(std::vector<double>{Read(first, c), Read(second, c)});
        },
        [first, second, bounds](const KeyValue& value, Config& c) {
          const auto* numbers = std::get_if<std::vector<double>>(&value);
          if (numbers == nullptr || numbers->size() != 2) {
            return WrongType("an array of two numbers", value);
          }
          if (!bounds.Holds((*numbers)[0]) || !bounds.Holds((*numbers)[1])) {
            return OutOfRange(value);
          }
          first(c) = (*numbers)[0];
          second(c) = (*numbers)[1];
          return Status::Ok();
        });
  }

  /// The key added last says how a run is carried out, not what comes out of it.
  void DoesNotDecideResult() { keys_.back().decides_result = false; }
  /// See ConfigKey::left_out_by_default.
  void IsLeftOutByDefault() { keys_.back().left_out_by_default = true; }

  std::vector<ConfigKey> Take() { return std::move(keys_); }

 private:
  static Status Choose(const KeyValue& value, const Choices& choices, size_t* index) {
    const std::string* word = std::get_if<std::string>(&value);
    if (word == nullptr) return WrongType("a string", value);
    const auto found = std::find(choices.words.begin(), choices.words.end(), *word);
    if (found == choices.words.end()) {
      return Status::Invalid(FormatKeyValue(value) + " is not one of its values");
    }
    *index = static_cast<size_t>(found - choices.words.begin());
    return Status::Ok();
  }

  void Add(std::string_view path, std::string allowed, const char* meaning,
           std::function<KeyValue(const Config&)> get,
           std::function<Status(const KeyValue&, Config&)> set) {
    const size_t dot = path.find('.');
    MF_CHECK(dot != std::string_view::npos);
    keys_.push_back({std::string(path.substr(0, dot)), std::string(path.substr(dot + 1)),
                     std::move(allowed), meaning, true, std::move(get), std::move(set)});
  }

  std::vector<ConfigKey> keys_;
};

// The name of a key is the name of its member: written once.
#define MF_FIELD(path) \
#path, [](Config & c) -> auto& { return c.path; }

constexpr double kMaxSeed = 9007199254740992;  // 2^53: exact in JSON readers that know only doubles

void AddModelKeys(Table& t) {
  t.Integer(MF_FIELD(model.d), {1, 65536}, "width of the residual stream; d = K * tau");
  t.Integer(MF_FIELD(model.layers), {1, 1024}, "blocks");
  t.Integer(MF_FIELD(model.heads), {1, 1024}, "attention heads; they divide d");
  t.Integer(MF_FIELD(model.K), {0, 65536}, "hash tables per memory layer; 0: d / tau");
  t.Integer(MF_FIELD(model.tau), {1, 24}, "bits per table: 2^tau rows");
  t.Integer(MF_FIELD(model.expand_bits), {0, 27},
            "e: M2's tables have tau + e bits; tau + e is at most 28");
  t.Integer(MF_FIELD(model.sequence), {1, 1048576}, "tokens per sequence");
  t.Integer(MF_FIELD(model.vocabulary), {2, 16777216}, "token ids are below it; 257 for bytes");
  t.Enum(MF_FIELD(model.score), {{"softmax", "scaled"}},
         "weight of a bucket: its probability (the paper), or that times the similarity");
  t.Integer(MF_FIELD(model.probes), {1, 24}, "buckets read per table, at most tau; 1: the paper");
  t.Real(MF_FIELD(model.temperature), {0, 1e6, Ends::kOpenLow}, "t of the bucket probabilities");
  t.Enum(MF_FIELD(model.norm), {{"rmsnorm", "layernorm"}},
         "norm before the layers; between M1 and M2 it is always layernorm");
  t.Enum(MF_FIELD(model.projection), {{"memory", "dense"}},
         "memory layers, or fully connected ones as the baseline");
  t.Real(MF_FIELD(model.rotary_pct), {0, 1}, "share of each head that is rotated by position");
  t.Integer(MF_FIELD(model.column_blocks), {0, 4096},
            "column blocks of every tensor, the limit of servers; 0: by width");
  t.Enum(MF_FIELD(model.table_dtype), WordsOf(kRowTypeNames),
         "type of the tables' numbers as all readers see them; training keeps the f32 behind");
  t.Integer(MF_FIELD(model.seed), {0, kMaxSeed}, "of the initial parameters");
}

void AddTrainKeys(Table& t) {
  t.Integer(MF_FIELD(train.steps), {1, 1e9}, "steps of the run");
  t.Integer(
      MF_FIELD(train.schedule_steps), {0, 2e9},
      "where the learning rate's schedule ends, steps before the run included; 0: with the run");
  t.IsLeftOutByDefault();
  t.Integer(MF_FIELD(train.steps_before), {0, 1e9},
            "of earlier training (--init): schedule and order of the data go on after them");
  t.IsLeftOutByDefault();
  t.Integer(MF_FIELD(train.micro_batches), {1, 65536}, "G, micro-batches per step");
  t.Integer(MF_FIELD(train.batch), {1, 65536}, "sequences per micro-batch");
  t.Integer(MF_FIELD(train.window), {1, 1024},
            "micro-batches leased ahead of the lowest unfinished one");
  t.DoesNotDecideResult();
  t.Real(MF_FIELD(train.lease_seconds), {0.01, 86400}, "a lease not renewed for so long is over");
  t.DoesNotDecideResult();
  t.Real(MF_FIELD(train.lr), {0, 100}, "peak learning rate");
  t.Real(MF_FIELD(train.warmup_ratio), {0, 1}, "share of the steps with rising learning rate");
  t.Real(MF_FIELD(train.min_lr_ratio), {0, 1}, "last learning rate over the peak");
  t.Real(MF_FIELD(train.weight_decay), {0, 10},
         "decoupled; on tables, embedding, head and matrices");
  t.Real(MF_FIELD(train.clip), {0, 1e9}, "limit of the global gradient norm; 0: none");
  t.Enum(MF_FIELD(train.optimizer), WordsOf(kOptimizerNames), "who turns gradients into updates");
  t.Pair(
      "train.betas", [](Config & c) -> auto& { return c.train.beta1; },
      [](Config & c) -> auto& { return c.train.beta2; }, {0, 1, Ends::kOpenHigh},
      "decay of Adam's two averages");
  t.Real(MF_FIELD(train.eps), {0, 1, Ends::kOpenLow}, "added to Adam's and Adagrad's denominator");
  t.Enum(MF_FIELD(train.sparse_update), WordsOf(kSparseUpdateNames),
         "rows that a step did not hit: what the dense optimizer would do, or nothing");
  t.Integer(MF_FIELD(train.eval_every), {0, 1e9}, "steps between evaluations; 0: after the last");
  t.Integer(MF_FIELD(train.eval_batches), {1, 1e6}, "sequences per evaluation");
  t.Integer(MF_FIELD(train.seed), {0, kMaxSeed}, "of the order of the data");
}

void AddOtherKeys(Table& t) {
  t.Integer(MF_FIELD(snapshot.every_steps), {0, 1e9},
            "steps between snapshots, and one after the last step; 0: not by steps");
  t.DoesNotDecideResult();
  t.Real(MF_FIELD(snapshot.every_minutes), {0, 1e6},
         "minutes between snapshots; 0: not by time, both 0: no snapshots");
  t.DoesNotDecideResult();
  t.Integer(MF_FIELD(snapshot.keep), {1, 1e6}, "newest common snapshots that are kept");
  t.DoesNotDecideResult();
  t.Real(MF_FIELD(data.validation_ratio), {0, 0.9},
         "last share of the tokens, held out unless --val is given");
  // Both change which tokens there are only where the digest of the data changes, too.
  t.Flag(MF_FIELD(data.binary),
         "bytes of text files are tokens as they are, also where they are no text");
  t.DoesNotDecideResult();
  t.Enum(MF_FIELD(data.ids), {{"auto", "u16", "u32"}},
         "ids in .bin files; auto: by header, index, vocabulary and what the numbers say");
  t.DoesNotDecideResult();
  t.Path(MF_FIELD(data.tokenizer),
         "tokenizer.json, or a model of SentencePiece; empty: that of the prepared data, or bytes");
  t.DoesNotDecideResult();
  t.OptionalEnum(MF_FIELD(exchange.mode), "auto", WordsOf(kExchangeModeNames),
                 "sums done by the servers, or rows fetched; auto: the cheaper one per table");
  t.Enum(
      MF_FIELD(exchange.placement), {{"auto", "server", "device"}},
      "device: GPU workers keep a copy of all tables and do the forward sums themselves; auto: of "
      "the first tables that fit exchange.device_bytes");
  t.Integer(MF_FIELD(exchange.device_bytes), {0, 1e15},
            "GPU memory for copies of tables that placement auto may fill");
  t.Enum(MF_FIELD(exchange.wire), WordsOf(kWireNames), "type of vectors between the machines");
  t.Integer(MF_FIELD(exchange.in_flight), {1, 64}, "micro-batches a worker works on at once");
  t.DoesNotDecideResult();
  t.Real(MF_FIELD(exchange.deadline_seconds), {0.01, 86400},
         "how long a worker waits for an answer");
  t.DoesNotDecideResult();
}

#undef MF_FIELD

std::vector<ConfigKey> MakeKeys() {
  Table table;
  AddModelKeys(table);
  AddTrainKeys(table);
  AddOtherKeys(table);
  return table.Take();
}

std::string SectionNames() {
  std::string names, last;
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.section == last) continue;
    names += (last.empty() ? "" : ", ") + key.section;
    last = key.section;
  }
  return names;
}

}  // namespace

const std::vector<ConfigKey>& ConfigKeys() {
  static const std::vector<ConfigKey> keys = MakeKeys();  // constant data, not state
  return keys;
}

bool IsConfigSection(std::string_view section) {
  return std::any_of(ConfigKeys().begin(), ConfigKeys().end(),
                     [&](const ConfigKey& key) { return key.section == section; });
}

Status SetConfigKey(const std::string& where, const std::string& section, const std::string& name,
                    const KeyValue& value, Config& config) {
  if (!IsConfigSection(section)) {
    return Status::Invalid(where + ": unknown section [" + section +
                           "]; allowed: " + SectionNames());
  }
  std::string names;
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.section != section) continue;
    if (key.name != name) {
      names += (names.empty() ? "" : ", ") + key.name;
      continue;
    }
    const Status status = key.set(value, config);
    if (status.ok()) return status;
    return Status::Invalid(where + ": " + key.full_name() + ": " + status.message() +
                           "; allowed: " + key.allowed);
  }
  return Status::Invalid(where + ": unknown key " + section + "." + name + "; allowed in [" +
                         section + "]: " + names);
}

Config UnresolvedConfig() {
  Config config;
  config.model.K = 0;
  return config;
}

void ResolveConfig(Config& config) {
  ModelConfig& m = config.model;
  if (m.K == 0 && m.tau > 0 && m.d % m.tau == 0) m.K = m.d / m.tau;
}

std::string FormatKeyValue(const KeyValue& value) {
  if (const bool* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const int64_t* whole = std::get_if<int64_t>(&value)) return std::to_string(*whole);
  if (const double* real = std::get_if<double>(&value)) return FormatNumber(*real);
  if (const std::string* word = std::get_if<std::string>(&value)) return "\"" + *word + "\"";
  if (const auto* numbers = std::get_if<std::vector<double>>(&value)) {
    std::string text = "[";
    for (size_t i = 0; i < numbers->size(); ++i) {
      text += (i == 0 ? "" : ", ") + FormatNumber((*numbers)[i]);
    }
    return text + "]";
  }
  return "?";
}

}  // namespace mf
