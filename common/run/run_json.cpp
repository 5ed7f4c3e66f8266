// A run's description as JSON, both ways, and what is different between two of them. One list of
// fields writes and reads; nlohmann's exceptions do not leave this file.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/run/json_memory.h"
#include "common/run/run_description.h"
#include "common/run/versions.h"

namespace mf {
namespace {

using nlohmann::json;  // its objects sort their keys

/// What is left out of Identity().
enum class Field { kDecides, kHowOnly };

class Writer {
 public:
  Writer(json& object, bool only_deciding) : object_(object), only_deciding_(only_deciding) {
    object_ = json::object();
  }

  template <class T>
  void Value(const char* name, const T& value, Field field = Field::kDecides) {
    if (Wanted(field)) object_[name] = value;
  }
  /// What came later: written only where it is not as it was before.
  template <class T>
  void Optional(const char* name, const T& value) {
    if (value != T{}) object_[name] = value;
  }
  template <class T, class Names>
  void Enum(const char* name, T value, const Names& names) {
    object_[name] = names.at(static_cast<size_t>(value));
  }
  template <class Fields>
  void Object(const char* name, const Fields& fields, Field field = Field::kDecides) {
    if (!Wanted(field)) return;
    Writer inner(object_[name], only_deciding_);
    fields(inner);
  }

 private:
  bool Wanted(Field field) const { return field == Field::kDecides || !only_deciding_; }

  json& object_;
  const bool only_deciding_;
};

bool Holds(const json& value, const int64_t*) {
  return value.is_number_integer() &&
         !(value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX});
}
bool Holds(const json& value, const uint64_t*) { return value.is_number_unsigned(); }
bool Holds(const json& value, const double*) { return value.is_number(); }
bool Holds(const json& value, const bool*) { return value.is_boolean(); }
bool Holds(const json& value, const std::string*) { return value.is_string(); }
bool Holds(const json& value, const std::vector<int64_t>*) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const json& item) {
           return Holds(item, static_cast<const int64_t*>(nullptr));
         });
}

/// Keeps the first thing that is wrong; then reads no more.
class Reader {
 public:
  Reader(const json& object, std::string where, Status* status)
      : object_(object), where_(std::move(where)), status_(*status) {
    if (!object_.is_object()) Wrong("not an object");
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() {  // all fields have been asked for
    if (status_.ok() && object_.size() != asked_)
      Wrong("a key that is not known, of another version or edited");
  }

  template <class T>
  void Value(const char* name, T& value, Field = Field::kDecides) {
    const json* found = Find(name);
    if (found == nullptr) return;
    if (!Holds(*found, &value)) return Wrong(std::string(name) + " is of the wrong type");
    value = found->get<T>();
  }
  template <class T>
  void Optional(const char* name, T& value) {
    if (!object_.is_object() || !object_.contains(name)) return;
    Value(name, value);
    if (value == T{}) Wrong(std::string(name) + " is to be left out where it says nothing");
  }
  template <class T, class Names>
  void Enum(const char* name, T& value, const Names& names) {
    std::string word;
    Value(name, word);
    if (!status_.ok()) return;
    const auto found = std::find(names.begin(), names.end(), word);
    if (found == names.end()) return Wrong(std::string(name) + " is none of its values");
    value = static_cast<T>(found - names.begin());
  }
  template <class Fields>
  void Object(const char* name, const Fields& fields, Field = Field::kDecides) {
    const json* found = Find(name);
    if (found == nullptr) return;
    Reader inner(*found, where_.empty() ? name : where_ + "." + name, &status_);
    fields(inner);
  }
  const json* Find(const char* name) {
    if (!status_.ok()) return nullptr;
    ++asked_;
    const auto found = object_.find(name);
    if (found != object_.end()) return &*found;
    Wrong(std::string(name) + " is missing");
    return nullptr;
  }
  /// A number that version 1 does not have.
  void Version(const char* name, const Format& format) {
    if (!status_.ok() || !object_.contains(name)) return;
    uint64_t version = 0;
    Value(name, version);
    if (status_.ok()) status_ = CheckVersion(format, version, where_);
  }
  void Wrong(const std::string& what) {
    if (!status_.ok()) return;
    status_ = Status::Invalid("run description: " + where_ + (where_.empty() ? "" : ": ") + what);
  }

 private:
  const json& object_;
  const std::string where_;
  Status& status_;
  size_t asked_ = 0;
};

// The fields: `io` is a Writer or a Reader, what is described const or not.

template <class Io, class Tensor>
void TensorFields(Io& io, Tensor& t) {
  io.Value("name", t.name);
  io.Enum("kind", t.kind, kTensorKindNames);
  io.Value("tables", t.tables);
  io.Value("rows", t.rows);
  io.Value("columns", t.columns);
  io.Value("probes", t.probes);
  io.Enum("init", t.init, kInitNames);
  io.Value("init_value", t.init_value);
  io.Object("optimizer", [&t](auto& inner) {
    inner.Enum("kind", t.optimizer.kind, kOptimizerNames);
    inner.Value("beta1", t.optimizer.beta1);
    inner.Value("beta2", t.optimizer.beta2);
    inner.Value("eps", t.optimizer.eps);
    inner.Enum("sparse_update", t.optimizer.sparse_update, kSparseUpdateNames);
  });
  io.Value("rate_scale", t.rate_scale);
  io.Value("weight_decay", t.weight_decay);
  io.Enum("row_type", t.row_type, kRowTypeNames);
  io.Enum("mode", t.mode, kExchangeModeNames);
  io.Value("on_device", t.on_device);
  io.Optional("admit_hits", t.admit_hits);
  io.Optional("waiting_keys", t.waiting_keys);
  io.Optional("expire_steps", t.expire_steps);
  io.Value("shape", t.shape);
}

template <class Io, class Rules>
void RuleFields(Io& io, Rules& r) {
  io.Value("steps", r.steps);
  io.Optional("steps_before", r.steps_before);
  io.Value("micro_batches", r.micro_batches);
  io.Value("tokens_per_micro_batch", r.tokens_per_micro_batch);
  io.Value("window", r.window, Field::kHowOnly);
  io.Value("lease_seconds", r.lease_seconds, Field::kHowOnly);
  io.Object("schedule", [&r](auto& inner) {
    inner.Value("peak", r.schedule.peak);
    inner.Value("warmup_ratio", r.schedule.warmup_ratio);
    inner.Value("min_ratio", r.schedule.min_ratio);
    inner.Optional("steps", r.schedule.steps);
  });
  io.Value("clip", r.clip);
  io.Value("eval_every", r.eval_every);
  io.Object(
      "snapshots",
      [&r](auto& inner) {
        inner.Value("every_steps", r.snapshots.every_steps);
        inner.Value("every_minutes", r.snapshots.every_minutes);
        inner.Value("keep", r.snapshots.keep);
      },
      Field::kHowOnly);
  io.Enum("wire", r.wire, kWireNames);
  io.Value("column_blocks", r.column_blocks);
  io.Value("seed", r.seed);
}

json ToJson(const RunDescription& run, bool only_deciding) {
  json root;
  Writer writer(root, only_deciding);
  writer.Value("about", run.about);
  writer.Value("data", run.data);
  writer.Optional("initial", run.initial);
  writer.Object("rules", [&run](auto& io) { RuleFields(io, run.rules); });
  root["tensors"] = json::array();
  for (const TensorSpec& tensor : run.tensors) {
    json item;
    Writer io(item, only_deciding);
    TensorFields(io, tensor);
    root["tensors"].push_back(std::move(item));
  }
  return root;
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);  // never throws on bad UTF-8
}

/// How deep objects and arrays are nested in a JSON text.
size_t DepthOf(const std::string& text) {
  size_t depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '{' || c == '[') deepest = std::max(deepest, ++depth);
    if ((c == '}' || c == ']') && depth > 0) --depth;
  }
  return deepest;
}

/// "path: 3 here, 4 there" of everything that is different, as far as a person wants to read.
class Differences {
 public:
  /// Members of `here` and `there`, which are not nested deeper than kDepthMax.
  void Add(const std::string& path, const json& here, const json& there) {
    if (here == there) return;
    if (!here.is_object() || !there.is_object()) return Name(path, Short(here), Short(there));
    const std::string prefix = path.empty() ? "" : path + ".";
    for (const auto& [key, value] : here.items()) {
      const auto other = there.find(key);
      if (other == there.end()) {
        Name(prefix + key, Short(value), "nothing");
      } else {
        Add(prefix + key, value, *other);
      }
    }
    for (const auto& [key, value] : there.items()) {
      if (!here.contains(key)) Name(prefix + key, "nothing", Short(value));
    }
  }
  /// Texts that may be JSON.
  void AddTexts(const std::string& name, const std::string& here, const std::string& there) {
    if (here == there) return;
    const json a = Parse(here), b = Parse(there);
    if (a.is_object() && b.is_object()) return Add("", a, b);
    Name(name, Short(here), Short(there));
  }
  bool none() const { return count_ == 0; }
  std::string Text() const {
    if (count_ <= kNamedMax) return text_;
    return text_ + "; and " + std::to_string(count_ - kNamedMax) + " more";
  }

 private:
  static constexpr size_t kNamedMax = 12;
  static constexpr size_t kDepthMax = 32;
  static constexpr size_t kTextMax = 100;

  static json Parse(const std::string& text) {
    if (DepthOf(text) > kDepthMax) return nullptr;
    return json::parse(text, nullptr, /*allow_exceptions=*/false);
  }
  /// On one line and in ASCII, whatever it is.
  static std::string Short(const json& value) {
    const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
    return text.size() <= kTextMax ? text : text.substr(0, kTextMax) + "...";
  }
  static std::string Printable(std::string text) {
    for (char& c : text) c = c < 0x20 || c > 0x7e ? '?' : c;
    return text.substr(0, kTextMax);
  }
  void Name(const std::string& path, const std::string& here, const std::string& there) {
    if (++count_ > kNamedMax) return;
    text_ +=
        (text_.empty() ? "" : "; ") + Printable(path) + ": " + here + " here, " + there + " there";
  }

  size_t count_ = 0;
  std::string text_;
};

/// Of its JSON, about.
size_t TextBytes(const RunDescription& run) {
  constexpr size_t kTensorBytes = 512;
  return run.about.size() + run.data.size() + kTensorBytes * run.tensors.size();
}

}  // namespace

std::string RunDescription::Json() const {
  const JsonMemory memory(TextBytes(*this));
  return Dump(ToJson(*this, /*only_deciding=*/false));
}

std::string RunDescription::Identity() const {
  const JsonMemory memory(TextBytes(*this));
  return Dump(ToJson(*this, /*only_deciding=*/true));
}

Result<RunDescription> RunDescription::FromJson(const std::string& text) {
  const JsonMemory memory(text.size());
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  RunDescription run;
  Status status;
  {
    Reader reader(root, "", &status);
    reader.Version("format", kRunDescriptionFormat);
    reader.Value("about", run.about);
    reader.Value("data", run.data);
    reader.Optional("initial", run.initial);
    reader.Object("rules", [&run](auto& io) { RuleFields(io, run.rules); });
    const json* tensors = reader.Find("tensors");
    if (tensors != nullptr && !tensors->is_array()) reader.Wrong("tensors is not an array");
    for (size_t i = 0; status.ok() && i < tensors->size(); ++i) {
      TensorSpec& tensor = run.tensors.emplace_back();
      tensor.id = static_cast<uint32_t>(i);
      Reader io((*tensors)[i], "tensor " + std::to_string(i), &status);
      TensorFields(io, tensor);
    }
  }
  MF_RETURN_IF_ERROR(status);
  MF_RETURN_IF_ERROR(run.Check());
  return run;
}

std::string DescribeDifference(const RunDescription& here, const RunDescription& there) {
  const JsonMemory memory(TextBytes(here) + TextBytes(there));
  Differences differences;
  differences.AddTexts("about", here.about, there.about);
  // What is made of the tensors usually says why they and the rules differ, and shorter.
  if (differences.none()) {
    const json a = ToJson(here, true), b = ToJson(there, true);
    differences.Add("rules", a["rules"], b["rules"]);
    const size_t both = std::min(here.tensors.size(), there.tensors.size());
    for (size_t i = 0; i < both; ++i) {
      differences.Add("tensor " + here.tensors[i].name, a["tensors"][i], b["tensors"][i]);
    }
    differences.Add("number of tensors", here.tensors.size(), there.tensors.size());
  }
  differences.AddTexts("--init", here.initial, there.initial);
  if (!differences.none()) return differences.Text();
  if (here.data != there.data) return "the same configuration on other data";
  // -0 and 0, or texts in JSON with other blanks: their ids differ.
  return here.Identity() == there.Identity() ? "" : "the same values, written in another way";
}

}  // namespace mf
