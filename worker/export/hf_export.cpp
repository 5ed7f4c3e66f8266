#include "worker/export/hf_export.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/base/digest.h"
#include "common/base/file_lock.h"
#include "common/base/files.h"
#include "worker/export/export.h"
#include "worker/export/hf_modeling.h"
#include "worker/tokenizer/byte_alphabet.h"
#include "worker/tokenizer/tokenizer.h"

namespace mf {
namespace {

using nlohmann::ordered_json;

constexpr const char* kConfigFile = "config.json";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kModelingFile = "modeling_memoryformer.py";
constexpr const char* kEndOfBytes = "<|endoftext|>";
constexpr const char* kLockName = ".export-lock";
constexpr const char* kWorkName = ".partial";  // a folder

bool IsTensorFile(const std::string& name) {
  return name == "model.safetensors" ||
         (name.starts_with("model-") && name.ends_with(".safetensors"));
}

/// Everything that an export writes, by any version of the model.
bool IsOurs(const std::string& name) {
  constexpr std::array kNames = {kConfigFile,      kIndexFile,        kModelingFile,
                                 "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                                 "README.md",      kLockName,         kWorkName};
  return IsTensorFile(name) || name.find(".partial-") != std::string::npos ||
         std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

Status Write(const std::string& folder, const std::string& name, const std::string& text) {
  return PublishFile(folder + "/" + name, text);
}
Status Write(const std::string& folder, const std::string& name, const ordered_json& value) {
  return Write(folder, name, value.dump(2) + "\n");
}

ordered_json ConfigOf(const Config& config, const Tokenizer& tokenizer) {
  const ModelConfig& m = config.model;
  ordered_json json;
  json["architectures"] = {"MemoryFormerForCausalLM"};
  json["model_type"] = "memoryformer";
  json["auto_map"]["AutoConfig"] = "modeling_memoryformer.MemoryFormerConfig";
  json["auto_map"]["AutoModelForCausalLM"] = "modeling_memoryformer.MemoryFormerForCausalLM";
  json["torch_dtype"] = "float32";
  json["hidden_size"] = m.d;
  json["num_hidden_layers"] = m.layers;
  json["num_attention_heads"] = m.heads;
  json["tables"] = m.K;
  json["bits"] = m.tau;
  json["expand_bits"] = m.expand_bits;
  json["vocab_size"] = m.vocabulary;
  json["max_position_embeddings"] = m.sequence;
  json["score"] = m.score == Score::kScaled ? "scaled" : "softmax";
  json["probes"] = m.probes;
  json["temperature"] = m.temperature;
  json["norm"] = m.norm == NormKind::kLayerNorm ? "layernorm" : "rmsnorm";
  json["projection"] = m.projection == Projection::kDense ? "dense" : "memory";
  json["rotary_pct"] = m.rotary_pct;
  json["use_cache"] = false;
  json["tie_word_embeddings"] = false;
  if (tokenizer.end_of_text().has_value()) {
    json["bos_token_id"] = *tokenizer.end_of_text();
    json["eos_token_id"] = *tokenizer.end_of_text();
  }
  return json;
}

/// Bytes as a byte-level BPE that joins nothing.
std::string TokenizerOfBytes() {
  const ByteAlphabet alphabet;
  const ordered_json byte_level = {{"type", "ByteLevel"},
                                   {"add_prefix_space", false},
                                   {"trim_offsets", true},
                                   {"use_regex", true}};
  ordered_json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = {{{"id", kBytesEndOfText},
                           {"content", kEndOfBytes},
                           {"single_word", false},
                           {"lstrip", false},
                           {"rstrip", false},
                           {"normalized", false},
                           {"special", true}}};
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = byte_level;
  json["post_processor"] = nullptr;
  json["decoder"] = byte_level;
  ordered_json& model = json["model"];
  model["type"] = "BPE";
  for (const char* none :
       {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    model[none] = nullptr;
  }
  model["fuse_unk"] = false;
  model["byte_fallback"] = false;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    model["vocab"][alphabet.TextOf(static_cast<uint8_t>(byte))] = byte;
  }
  model["merges"] = ordered_json::array();
  return json.dump(2) + "\n";
}

Status WriteTokenizer(const std::string& folder, const Config& config, const Tokenizer& tokenizer) {
  ordered_json how;
  how["model_max_length"] = config.model.sequence;
  how["clean_up_tokenization_spaces"] = false;
  if (tokenizer.kind() == "SentencePiece") {
    how["tokenizer_class"] = "LlamaTokenizer";
    how["add_bos_token"] = false;
    how["add_eos_token"] = false;
    MF_RETURN_IF_ERROR(Write(folder, "tokenizer.model", tokenizer.content()));
    return Write(folder, "tokenizer_config.json", how);
  }
  how["tokenizer_class"] = "PreTrainedTokenizerFast";
  const bool bytes = tokenizer.content().empty();
  if (tokenizer.end_of_text().has_value()) {
    const std::string end =
        bytes ? kEndOfBytes : tokenizer.Decode(std::array{*tokenizer.end_of_text()});
    how["bos_token"] = end;
    how["eos_token"] = end;
  }
  MF_RETURN_IF_ERROR(
      Write(folder, "tokenizer.json", bytes ? TokenizerOfBytes() : tokenizer.content()));
  return Write(folder, "tokenizer_config.json", how);
}

std::string PageOf(const Config& config, const Tokenizer& tokenizer, uint64_t numbers,
                   const std::string& figures) {
  const ModelConfig& m = config.model;
  std::string text =
      "---\nlibrary_name: transformers\ntags: [memoryformer]\n---\n\n# MemoryFormer\n\n";
  text +=
      "A language model whose fully connected layers are tables of rows that are looked up by a "
      "locality-sensitive hash (MemoryFormer, NeurIPS 2024).\n\n| | |\n|---|---|\n";
  const auto row = [&text](const std::string& name, const std::string& value) {
    text += "| " + name + " | " + value + " |\n";
  };
  row("parameters", std::to_string(numbers));
  row("width, layers, heads",
      std::to_string(m.d) + ", " + std::to_string(m.layers) + ", " + std::to_string(m.heads));
  if (m.projection == Projection::kMemory) {
    row("tables a layer, bits", std::to_string(m.K) + ", " + std::to_string(m.tau) +
                                    " (M2: " + std::to_string(m.tau + m.expand_bits) + ")");
  } else {
    row("projections", "fully connected");
  }
  row("context", std::to_string(m.sequence) + " tokens");
  row("tokenizer", tokenizer.kind() + ", " + std::to_string(tokenizer.vocabulary()) + " ids");
  text += figures;
  text +=
      "\n    model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)\n\n"
      "Without `transformers`: `modeling_memoryformer.load(FOLDER)`.\n";
  return text;
}

/// Which tensors go into the same file, in their order.
std::vector<std::vector<const TensorSpec*>> Files(const std::vector<TensorSpec>& tensors,
                                                  uint64_t most) {
  std::vector<std::vector<const TensorSpec*>> files(1);
  uint64_t bytes = 0;
  for (const TensorSpec& tensor : tensors) {
    const uint64_t more = tensor.values() * sizeof(float);
    if (!files.back().empty() && bytes + more > most) {
      files.emplace_back();
      bytes = 0;
    }
    bytes += more;
    files.back().push_back(&tensor);
  }
  return files;
}

/// Tells exports of two states apart, of which files could get into one folder: some rows of every
/// tensor.
Result<std::string> FingerprintOf(TensorReader& reader, const std::vector<TensorSpec>& tensors) {
  Sha256 hash;
  std::vector<float> row;
  for (const TensorSpec& tensor : tensors) {
    row.resize(static_cast<size_t>(tensor.columns));
    for (const uint64_t at : {uint64_t{0}, tensor.total_rows() / 2, tensor.total_rows() - 1}) {
      MF_RETURN_IF_ERROR(reader.ReadRange(tensor, at, 1, row.data()));
      hash.Update(row.data(), row.size() * sizeof(float));
    }
  }
  return hash.Hex();
}

Status WriteTensors(TensorReader& reader, const Config& config,
                    const std::vector<TensorSpec>& tensors, const HfOptions& options,
                    const std::string& folder) {
  const auto files = Files(tensors, options.file_bytes);
  const std::vector<TensorEntry> entries = EntriesOf(tensors);
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (files.size() > 1) {
    MF_ASSIGN_OR_RETURN(metadata["fingerprint"], FingerprintOf(reader, tensors));
  }
  ordered_json index;
  uint64_t bytes = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    char name[64] = "model.safetensors";
    if (files.size() > 1) {
      std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, files.size());
    }
    std::vector<TensorEntry> some;
    for (const TensorSpec* tensor : files[i]) some.push_back(entries[tensor->id]);
    MF_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(folder + "/" + name, some,
                                                                     ModelJson(config), metadata));
    for (const TensorSpec* tensor : files[i]) {
      if (options.stopped && options.stopped()) return Status::Failed("stopped");
      MF_RETURN_IF_ERROR(AppendWhole(reader, *tensor, *writer));
      bytes += tensor->values() * sizeof(float);
      index["weight_map"][tensor->name] = name;
    }
    MF_RETURN_IF_ERROR(writer->Finish());
  }
  if (files.size() == 1) return Status::Ok();
  index["metadata"]["total_size"] = bytes;
  return Write(folder, kIndexFile, index);
}

Status WriteAll(TensorReader& reader, const Config& config, const std::vector<TensorSpec>& tensors,
                const HfOptions& options, const std::string& folder) {
  MF_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Make(config.tokenizer, "the tokenizer"));
  MF_RETURN_IF_ERROR(WriteTensors(reader, config, tensors, options, folder));
  MF_RETURN_IF_ERROR(WriteTokenizer(folder, config, *tokenizer));
  MF_RETURN_IF_ERROR(Write(folder, kModelingFile, std::string(kHfModeling)));
  uint64_t numbers = 0;
  for (const TensorSpec& tensor : tensors) {
    numbers += tensor.values();
  }
  MF_RETURN_IF_ERROR(
      Write(folder, "README.md", PageOf(config, *tokenizer, numbers, options.figures)));
  return Write(folder, kConfigFile, ConfigOf(config, *tokenizer));
}

/// The new files take the places of the old ones; in between there is no config.json, without which
/// nobody takes the folder for a model.
Status MoveIn(const std::string& from, const std::string& folder) {
  unlink((folder + "/" + kConfigFile).c_str());
  std::vector<std::string> names = FileNames(from);
  std::stable_partition(names.begin(), names.end(),
                        [](const std::string& name) { return name != kConfigFile; });
  for (const std::string& name : FileNames(folder)) {
    const bool old = std::find(names.begin(), names.end(), name) == names.end();
    if (old && IsOurs(name) && name != kLockName && folder + "/" + name != from) {
      unlink((folder + "/" + name).c_str());
    }
  }
  for (const std::string& name : names) {
    MF_RETURN_IF_ERROR(RenamePath(from + "/" + name, folder + "/" + name));
  }
  return SyncPath(folder);
}

}  // namespace

Status ExportHf(TensorReader& reader, const Config& config, const std::vector<TensorSpec>& tensors,
                const HfOptions& options) {
  const std::string& folder = options.folder;
  const auto refuse = [&folder](const std::string& why) {
    return Status::Invalid("--out " + folder + ": " + why);
  };
  if (const Status made = MakeFolder(folder); !made.ok()) return refuse(made.message());
  for (const std::string& name : FileNames(folder)) {
    if (IsOurs(name)) continue;
    return refuse("something else is in it (" + name +
                  "); name a folder that is empty, not there yet, or of an earlier export");
  }
  const std::string lock_path = folder + "/" + kLockName;
  Result<FileLock> lock = FileLock::TakeFolder(lock_path);
  if (lock.status().code() == Code::kUnavailable) return refuse("another export writes there");
  if (!lock.ok()) return refuse("cannot be written: " + lock.status().message());
  const std::string work = folder + "/" + kWorkName;
  Status done = RemoveTree(work);  // of a process that was killed
  if (done.ok()) done = MakeFolder(work);
  if (done.ok()) done = WriteAll(reader, config, tensors, options, work);
  if (done.ok()) done = MoveIn(work, folder);
  const Status removed = RemoveTree(work);
  lock->ReleaseAndRemove(lock_path);
  return done.ok() ? removed : done;
}

}  // namespace mf
