#include "worker/train/run_file.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/base/files.h"
#include "common/base/input_file.h"
#include "common/kernels/target.h"
#include "worker/compute/cpu/matmul.h"

namespace mf {
namespace {

using nlohmann::json;  // of what is read: ordered_json does not survive deep nesting
using nlohmann::ordered_json;

constexpr size_t kBytesMax = 1 << 20;

/// Of the first processor, after "NAME : ", by any of the names; empty if there is none.
std::string FromCpuInfo(const std::vector<std::string>& names) {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const size_t end = line.find_last_not_of(" \t", colon - 1);
    if (std::count(names.begin(), names.end(), line.substr(0, end + 1)) == 0) continue;
    return line.substr(colon + 2);
  }
  return "";
}

bool IsOfVectors(const std::string& feature) {
  for (const char* begin :
       {"sse", "ssse", "avx", "fma", "f16c", "amx", "asimd", "sve", "neon", "fp", "bf16", "i8mm"}) {
    if (feature.starts_with(begin)) return feature != "fpu" && feature != "fpu_exception";
  }
  return false;
}

std::vector<std::string> VectorFeatures() {
  std::istringstream words(FromCpuInfo({"flags", "Features"}));
  std::vector<std::string> features;
  for (std::string word; words >> word;) {
    if (IsOfVectors(word)) features.push_back(word);
  }
  std::sort(features.begin(), features.end());
  return features;
}

std::string Joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

/// Reads members of an object by name; keeps the first thing that is wrong. What is there and is
/// not asked for is wrong, too: a key that was misspelt by hand would else be without effect.
class Reader {
 public:
  Reader(const json& object, std::string name, Status* status)
      : object_(object), name_(std::move(name)), status_(*status) {
    if (!object_.is_object()) Wrong("is not an object");
  }
  /// All members that there should be were asked for.
  void End() {
    if (!status_.ok()) return;
    for (const auto& [key, value] : object_.items()) {
      if (std::count(asked_.begin(), asked_.end(), key) == 0) Wrong("has an unknown key " + key);
    }
  }

  const json& Member(const char* key) {
    static const json kNothing;
    asked_.push_back(key);
    if (object_.is_object() && object_.contains(key)) return object_[key];
    Wrong(std::string("has no ") + key);
    return kNothing;
  }
  void Text(const char* key, std::string* text) {
    const json& member = Member(key);
    if (!status_.ok()) return;
    if (!member.is_string()) return Wrong(std::string("has a ") + key + " that is no text");
    *text = member.get<std::string>();
  }
  void Texts(const char* key, std::vector<std::string>* texts) {
    for (const json& item : Member(key)) {
      if (!item.is_string()) return Wrong(std::string("has a ") + key + " that are no texts");
      texts->push_back(item.get<std::string>());
    }
  }

 private:
  void Wrong(const std::string& what) {
    if (status_.ok()) status_ = Status::Invalid(name_ + " " + what);
  }

  const json& object_;
  const std::string name_;
  Status& status_;
  std::vector<std::string> asked_;
};

void ReadPlatform(const json& program, const json& cpu, Platform* platform, Status* status) {
  Reader of_program(program, "program", status);
  of_program.Text("version", &platform->program.version);
  of_program.Text("commit", &platform->program.commit);
  of_program.Text("compiler", &platform->program.compiler);
  of_program.End();
  Reader of_cpu(cpu, "cpu", status);
  of_cpu.Text("processor", &platform->processor);
  of_cpu.Texts("features", &platform->features);
  of_cpu.Text("kernels", &platform->kernels);
  of_cpu.Text("matrix_library", &platform->matrix_library);
  of_cpu.Text("computes_on", &platform->computes_on);
  of_cpu.End();
}

/// An object of objects of plain values and lists of them: what dump() may be called for.
bool IsShallow(const json& config) {
  if (!config.is_object()) return false;
  for (const json& section : config) {
    for (const json& value : section) {
      for (const json& item : value) {
        if (item.is_structured()) return false;
      }
    }
  }
  return true;
}

/// A whole run.json of a version that is read, as an object.
Status ReadFields(const json& root, RunFile* run) {
  Status status;
  Reader reader(root, "it", &status);
  reader.Member("format");
  reader.Text("run", &run->run_id);
  ReadPlatform(reader.Member("program"), reader.Member("cpu"), &run->platform, &status);
  Reader of_data(reader.Member("data"), "data", &status);
  of_data.Text("path", &run->data);
  of_data.Text("validation", &run->validation);
  of_data.Text("digest", &run->data_digest);
  of_data.End();
  if (root.contains("init")) {
    Reader of_init(reader.Member("init"), "init", &status);
    of_init.Text("path", &run->init);
    std::string optimizer;
    of_init.Text("optimizer", &optimizer);
    run->keep_optimizer = optimizer == "kept";
    if (const json& step = of_init.Member("step"); step.is_number_unsigned()) {
      run->init_step = step.get<uint64_t>();
    }
    of_init.End();
  }
  const json& config = reader.Member("config");
  reader.End();
  MF_RETURN_IF_ERROR(status);
  if (!IsShallow(config)) return Status::Invalid("config is not one");
  MF_ASSIGN_OR_RETURN(run->config, ConfigFromJson(config.dump()));
  return Status::Ok();
}

}  // namespace

Platform ThisPlatform(const std::string& computes_on) {
  std::string processor = FromCpuInfo({"model name", "Model", "Hardware"});
  if (processor.empty()) processor = "unknown";
  return {.program = ThisProgram(),
          .processor = processor,
          .features = VectorFeatures(),
          .kernels = KernelTarget(),
          .matrix_library = MultiplyLibrary(),
          .computes_on = computes_on.substr(0, computes_on.find(','))};
}

std::string DescribeDifference(const Platform& here, const Platform& there) {
  std::string text;
  const auto compare = [&text](const char* name, const std::string& ours, const std::string& its) {
    if (ours == its) return;
    text +=
        (text.empty() ? "" : "; ") + std::string(name) + " " + ours + " here, " + its + " there";
  };
  compare("program", here.program.Text(), there.program.Text());
  compare("processor", here.processor, there.processor);
  if (here.processor == there.processor) {
    compare("features", Joined(here.features), Joined(there.features));
  }
  compare("kernels for", here.kernels, there.kernels);
  compare("matrix products by", here.matrix_library, there.matrix_library);
  compare("computed on", here.computes_on, there.computes_on);
  // A file may say anything.
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return std::iscntrl(c); }, ' ');
  return text;
}

Status WriteRunFile(const std::string& path, const RunFile& run) {
  const Platform& platform = run.platform;
  ordered_json root;
  root["format"] = kRunFileFormat.newest;
  root["run"] = run.run_id;
  root["program"] = {{"version", platform.program.version},
                     {"commit", platform.program.commit},
                     {"compiler", platform.program.compiler}};
  root["cpu"] = {{"processor", platform.processor},
                 {"features", platform.features},
                 {"kernels", platform.kernels},
                 {"matrix_library", platform.matrix_library},
                 {"computes_on", platform.computes_on}};
  root["data"] = {{"path", run.data}, {"validation", run.validation}, {"digest", run.data_digest}};
  if (!run.init.empty()) {
    root["init"] = {{"path", run.init},
                    {"step", run.init_step},
                    {"optimizer", run.keep_optimizer ? "kept" : "begun anew"}};
  }
  root["config"] = ordered_json::parse(ConfigJson(run.config));
  // A path need not be UTF-8; what is replaced in it is then to be named by --data.
  return PublishFile(path, root.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n");
}

Result<RunFile> ReadRunFile(const std::string& path) {
  MF_ASSIGN_OR_RETURN(const std::string text, ReadInput(path, "this run.json", kBytesMax));
  const auto wrong = [&](const std::string& what) {
    return Status::Invalid(path + ": " + what + "; name the run.json that a run has in its --out");
  };
  if (text.empty()) return wrong("empty");
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return wrong("not whole, or not a run.json");
  if (!root.is_object() || !root.contains("format") || !root["format"].is_number_unsigned()) {
    return wrong("not a run.json");
  }
  MF_RETURN_IF_ERROR(CheckVersion(kRunFileFormat, root["format"].get<uint64_t>(), path));
  RunFile run;
  if (const Status read = ReadFields(root, &run); !read.ok()) return wrong(read.message());
  return run;
}

}  // namespace mf
