#include "worker/export/safetensors.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>

#include "common/base/bf16.h"
#include "common/base/buffer.h"
#include "common/run/versions.h"
#include "worker/export/safetensors_files.h"

namespace mf {
namespace {

using nlohmann::json;

// As in the format's other readers; a header of 100 MB describes a million tensors.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

constexpr std::pair<const char*, DType> kDTypes[] = {
    {"F32", DType::kF32}, {"F16", DType::kF16}, {"BF16", DType::kBF16}, {"U64", DType::kU64}};

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

/// False for a negative size or more bytes than 64 bits count.
bool ShapeBytes(const TensorEntry& entry, uint64_t* bytes) {
  *bytes = DTypeBytes(entry.dtype);
  for (const int64_t size : entry.shape) {
    if (size < 0 || __builtin_mul_overflow(*bytes, static_cast<uint64_t>(size), bytes)) {
      return false;
    }
  }
  return true;
}

/// Parses an object, refusing a name that stands twice (the JSON library would keep the last one).
std::optional<json> ParseHeaderJson(const char* begin, const char* end) {
  std::set<std::string> names;
  bool repeated = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth == 1 && event == json::parse_event_t::key) {
      repeated |= !names.insert(parsed.get<std::string>()).second;
    }
    return true;
  };
  json root = json::parse(begin, end, watch, /*allow_exceptions=*/false);
  if (!root.is_object() || repeated) return std::nullopt;
  return root;
}

/// Finds the model's configuration; without one it is another program's file.
Status ParseMetadata(const json& metadata, const std::string& path, std::string* config_json) {
  const auto invalid = [&path](const std::string& what) {
    return Status::Invalid(path + ": __metadata__" + what);
  };
  if (!metadata.is_object()) return invalid(" is not an object");
  const auto config = metadata.find("config");
  if (config == metadata.end()) return Status::Ok();
  if (const auto version = metadata.find("config_version"); version != metadata.end()) {
    const std::string text = version->is_string() ? version->get<std::string>() : "";
    uint32_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size()) {
      return invalid(".config_version is not a number");
    }
    MF_RETURN_IF_ERROR(CheckVersion(kExportFormat, number, path));
  }
  if (!config->is_string()) return invalid(".config is not a string");
  *config_json = config->get<std::string>();
  return Status::Ok();
}

}  // namespace

Status SafetensorsReader::Invalid(const std::string& what) const {
  return Status::Invalid(path_ + ": " + what);
}

SafetensorsReader::~SafetensorsReader() = default;

Result<std::shared_ptr<const SafetensorsReader>> SafetensorsReader::Open(const std::string& path) {
  MF_ASSIGN_OR_RETURN(const std::vector<std::string> files, SafetensorsFiles(path));
  if (files.size() == 1) return OpenFile(files[0]);
  std::shared_ptr<SafetensorsReader> reader(new SafetensorsReader);
  reader->path_ = path;
  for (const std::string& file : files) {
    MF_ASSIGN_OR_RETURN(auto part, OpenFile(file));
    MF_RETURN_IF_ERROR(reader->Add(std::move(part)));
  }
  return std::shared_ptr<const SafetensorsReader>(std::move(reader));
}

Result<std::shared_ptr<const SafetensorsReader>> SafetensorsReader::OpenFile(
    const std::string& path) {
  std::shared_ptr<SafetensorsReader> reader(new SafetensorsReader);
  reader->path_ = path;
  MF_ASSIGN_OR_RETURN(reader->map_, MappedFile::Open(path, "this model file"));
  MF_RETURN_IF_ERROR(reader->ParseHeader());
  return std::shared_ptr<const SafetensorsReader>(std::move(reader));
}

Status SafetensorsReader::Add(std::shared_ptr<const SafetensorsReader> file) {
  for (const Tensor& tensor : file->tensors()) {
    if (Find(tensor.entry.name) != nullptr) {
      return file->Invalid("tensor " + tensor.entry.name + " is in another file of the model, too");
    }
  }
  if (files_.empty()) {
    config_json_ = file->config_json();
    fingerprint_ = file->fingerprint_;
  }
  if (file->config_json() != config_json_) {
    return file->Invalid("describes another model than " + files_[0]->path() +
                         (file->config_json().empty() ? ": it has no __metadata__.config" : ""));
  }
  if (file->fingerprint_ != fingerprint_) {
    return file->Invalid("is of another export than " + files_[0]->path() +
                         "; export or copy all of the folder again");
  }
  tensors_.insert(tensors_.end(), file->tensors().begin(), file->tensors().end());
  files_.push_back(std::move(file));
  return Status::Ok();
}

const float* SafetensorsReader::Tensor::f32() const {
  const bool aligned = reinterpret_cast<uintptr_t>(data) % alignof(float) == 0;
  if (entry.dtype != DType::kF32 || !aligned) return nullptr;
  return reinterpret_cast<const float*>(data);
}

void SafetensorsReader::Tensor::CopyF32(float* values) const {
  MF_CHECK(entry.dtype != DType::kU64);
  if (entry.dtype == DType::kF32) {
    if (bytes > 0) std::memcpy(values, data, bytes);
    return;
  }
  const bool half = entry.dtype == DType::kF16;
  for (uint64_t i = 0; i < numbers(); ++i) {
    const uint16_t bits = LoadUnaligned<uint16_t>(data, i);
    values[i] = half ? FromF16(bits) : FromBf16(bits);
  }
}

Status SafetensorsReader::ParseHeader() {
  const char* base = reinterpret_cast<const char*>(map_->data());
  const uint64_t size = map_->bytes();
  if (size < 8) return Invalid("cut short: not even a safetensors header length");
  uint64_t length;
  std::memcpy(&length, base, 8);
  if (length > kMaxHeaderBytes) return Invalid("not a safetensors file: impossible header length");
  if (length > size - 8) return Invalid("cut short inside its header");
  const std::optional<json> root = ParseHeaderJson(base + 8, base + 8 + length);
  if (!root.has_value()) return Invalid("its header is not a JSON object with distinct names");
  // Before the tensors, which a newer version may describe in another way.
  if (const auto metadata = root->find("__metadata__"); metadata != root->end()) {
    MF_RETURN_IF_ERROR(ParseMetadata(*metadata, path_, &config_json_));
    const auto fingerprint = metadata->find("fingerprint");
    if (fingerprint != metadata->end() && fingerprint->is_string()) {
      fingerprint_ = fingerprint->get<std::string>();
    }
  }
  for (const auto& item : root->items()) {
    const std::string& name = item.key();
    const json& value = item.value();
    if (name == "__metadata__") continue;
    const auto bad = [&](const char* what) { return Invalid("tensor " + name + ": " + what); };
    if (!value.is_object()) return bad("not an object");
    Tensor tensor;
    tensor.entry.name = name;
    const auto dtype = value.find("dtype");
    const auto named = [&](const auto& known) {
      return dtype != value.end() && *dtype == known.first;
    };
    const auto known = std::find_if(std::begin(kDTypes), std::end(kDTypes), named);
    if (known == std::end(kDTypes)) return bad("dtype is none of F32, F16, BF16 and U64");
    tensor.entry.dtype = known->second;
    const auto is_count = [](const json& n) {
      return n.is_number_unsigned() && n.get<uint64_t>() <= uint64_t{INT64_MAX};
    };
    const auto shape = value.find("shape");
    if (shape == value.end() || !shape->is_array() ||
        !std::all_of(shape->begin(), shape->end(), is_count)) {
      return bad("shape is not an array of sizes");
    }
    tensor.entry.shape = shape->get<std::vector<int64_t>>();
    const auto offsets = value.find("data_offsets");
    if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2 ||
        !std::all_of(offsets->begin(), offsets->end(), is_count)) {
      return bad("data_offsets is not a pair of offsets");
    }
    const uint64_t begin = (*offsets)[0].get<uint64_t>(), end = (*offsets)[1].get<uint64_t>();
    if (end < begin) return bad("data_offsets run backwards");
    if (!ShapeBytes(tensor.entry, &tensor.bytes) || tensor.bytes != end - begin) {
      return bad("shape and data_offsets do not agree");
    }
    begins_.push_back(begin);
    tensors_.push_back(std::move(tensor));
  }
  const uint64_t data_bytes = size - 8 - length;
  std::vector<size_t> order(tensors_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(begins_[a], tensors_[a].bytes) < std::pair(begins_[b], tensors_[b].bytes);
  });
  std::vector<Tensor> sorted;
  std::vector<uint64_t> begins;
  for (const size_t i : order) {
    sorted.push_back(std::move(tensors_[i]));
    begins.push_back(begins_[i]);
  }
  tensors_ = std::move(sorted);
  begins_ = std::move(begins);
  MF_RETURN_IF_ERROR(CheckLayout(data_bytes));
  for (size_t i = 0; i < tensors_.size(); ++i) {
    tensors_[i].data = map_->data() + 8 + length + begins_[i];
  }
  return Status::Ok();
}

Status SafetensorsReader::CheckLayout(uint64_t data_bytes) const {
  uint64_t at = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    const std::string name = "tensor " + tensor.entry.name + ": ";
    if (begins_[i] < at) return Invalid(name + "overlaps the tensor before it");
    if (begins_[i] > at) return Invalid(name + "leaves a gap before it");
    if (tensor.bytes > data_bytes - at) {
      return Invalid("cut short: " + name + "ends at data byte " +
                     std::to_string(begins_[i] + tensor.bytes) + ", the file has " +
                     std::to_string(data_bytes));
    }
    at += tensor.bytes;
  }
  if (at != data_bytes) return Invalid("bytes that belong to no tensor at its end");
  return Status::Ok();
}

const SafetensorsReader::Tensor* SafetensorsReader::Find(const std::string& name) const {
  for (const Tensor& tensor : tensors_) {
    if (tensor.entry.name == name) return &tensor;
  }
  return nullptr;
}

Status SafetensorsReader::CheckTensors(const std::vector<TensorSpec>& expected) const {
  for (const TensorSpec& spec : expected) {
    const Tensor* tensor = Find(spec.name);
    if (tensor == nullptr) {
      if (Find(spec.name + ".rows") != nullptr) {
        return Invalid("tensor " + spec.name +
                       " has only its touched rows; export it with --rows all");
      }
      return Invalid("tensor " + spec.name + " is missing");
    }
    if (tensor->entry.dtype == DType::kU64) {
      return Invalid("tensor " + spec.name + ": dtype is none of F32, F16 and BF16");
    }
    if (tensor->entry.shape != spec.shape) {
      return Invalid("tensor " + spec.name + ": shape is " + ShapeText(tensor->entry.shape) +
                     ", its configuration says " + ShapeText(spec.shape));
    }
  }
  if (tensors_.size() == expected.size()) return Status::Ok();
  for (const Tensor& tensor : tensors_) {
    if (FindTensor(expected, tensor.entry.name) == nullptr) {
      return Invalid("tensor " + tensor.entry.name + " is not part of its model");
    }
  }
  return Status::Ok();
}

}  // namespace mf
