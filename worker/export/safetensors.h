// safetensors files: u64 length of a JSON header, the header, then all tensors' bytes without gaps.
// Written as a stream, so that a model larger than memory can be exported; read through mmap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/input_file.h"
#include "common/base/status.h"
#include "common/run/tensor_spec.h"

namespace mf {

enum class DType { kF32, kU64, kF16, kBF16 };  // the last two are read, not written
inline size_t DTypeBytes(DType dtype) {
  return dtype == DType::kF32 ? 4 : dtype == DType::kU64 ? 8 : 2;
}

/// What the header says of one tensor.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

/// The export's entries for whole tensors: f32, in canonical order.
std::vector<TensorEntry> EntriesOf(const std::vector<TensorSpec>& tensors);

/// Writes a file that appears at `path` only when it is complete. Its bytes depend on the arguments
/// alone: no time, no padding left over, tensors in the order given.
class SafetensorsWriter {
 public:
  /// `config_json` becomes `__metadata__.config`, and `more` other keys of that object. kInvalid if
  /// the place cannot be written.
  static Result<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<TensorEntry>& tensors,
      const std::string& config_json, const std::map<std::string, std::string>& more = {});
  ~SafetensorsWriter();  // without Finish: removes what was written
  /// The same for the one that is at work, by its name only: async-signal-safe.
  static void RemoveUnfinished();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// The next bytes of the tensors' data, cut anywhere; little-endian.
  Status Append(const void* data, size_t bytes);
  /// fsync, rename, fsync of the folder. Every announced byte must have been appended.
  Status Finish();

 private:
  SafetensorsWriter() = default;
  Status Write(const void* data, size_t bytes);
  Status Fail(const char* action) const;

  std::string path_, temporary_;
  int fd_ = -1;
  uint64_t expected_ = 0;
  uint64_t appended_ = 0;
  std::vector<char> buffer_;  // small appends are gathered
};

/// A mapped file, or several that make up a model, checked completely (headers, types, sizes,
/// offsets) before anything is handed out.
class SafetensorsReader {
 public:
  struct Tensor {
    TensorEntry entry;
    const std::byte* data = nullptr;  // of any alignment: other programs' headers have any length
    uint64_t bytes = 0;
    uint64_t numbers() const { return bytes / DTypeBytes(entry.dtype); }
    /// In place; nullptr unless they are f32 that lie aligned.
    const float* f32() const;
    /// All numbers() of F32, F16 or BF16, without loss.
    void CopyF32(float* values) const;
  };

  /// A file, or a folder with one or several (safetensors_files.h). kInvalid, naming file and
  /// tensor, for anything that is not a well-formed file.
  static Result<std::shared_ptr<const SafetensorsReader>> Open(const std::string& path);
  ~SafetensorsReader();
  SafetensorsReader(const SafetensorsReader&) = delete;
  SafetensorsReader& operator=(const SafetensorsReader&) = delete;

  const std::string& path() const { return path_; }
  /// In the order of files by name, and of their data.
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const Tensor* Find(const std::string& name) const;
  /// `__metadata__.config`, or empty.
  const std::string& config_json() const { return config_json_; }
  /// kInvalid unless they hold exactly `expected`, whole, of floats, in these shapes.
  Status CheckTensors(const std::vector<TensorSpec>& expected) const;

 private:
  SafetensorsReader() = default;
  static Result<std::shared_ptr<const SafetensorsReader>> OpenFile(const std::string& path);
  /// Takes in the tensors of one of several files.
  Status Add(std::shared_ptr<const SafetensorsReader> file);
  Status ParseHeader();
  Status CheckLayout(uint64_t data_bytes) const;
  Status Invalid(const std::string& what) const;

  std::string path_, config_json_;
  std::string fingerprint_;  // `__metadata__.fingerprint`: the same in all files of an export
  std::unique_ptr<MappedFile> map_;                              // of one file
  std::vector<std::shared_ptr<const SafetensorsReader>> files_;  // or several
  std::vector<Tensor> tensors_;
  std::vector<uint64_t> begins_;  // as announced, beside tensors_, until they are checked
};

}  // namespace mf
