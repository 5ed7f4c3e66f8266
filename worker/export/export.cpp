#include "worker/export/export.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <string_view>

#include "common/base/files.h"
#include "common/base/input_file.h"

namespace mf {
namespace {

constexpr uint64_t kFloatsPerRead = 1 << 22;  // 16 MiB at a time
constexpr uint64_t kRowsPerList = 1 << 20;

uint64_t RowsPerRead(const TensorSpec& tensor) {
  return std::max<uint64_t>(1, kFloatsPerRead / static_cast<uint64_t>(tensor.columns));
}

Status AppendRows(TensorReader& reader, const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                  SafetensorsWriter& writer) {
  MF_RETURN_IF_ERROR(writer.Append(rows.data(), rows.size() * sizeof(uint64_t)));
  std::vector<float> values;
  for (size_t first = 0; first < rows.size(); first += RowsPerRead(tensor)) {
    const size_t end = std::min<size_t>(rows.size(), first + RowsPerRead(tensor));
    const std::vector<uint64_t> some(rows.begin() + static_cast<ptrdiff_t>(first),
                                     rows.begin() + static_cast<ptrdiff_t>(end));
    values.resize(some.size() * static_cast<size_t>(tensor.columns));
    MF_RETURN_IF_ERROR(reader.ReadRows(tensor, some, values.data()));
    MF_RETURN_IF_ERROR(writer.Append(values.data(), values.size() * sizeof(float)));
  }
  return Status::Ok();
}

Result<std::vector<uint64_t>> TouchedRows(TensorReader& reader, const TensorSpec& tensor) {
  std::vector<uint64_t> rows;
  while (true) {
    const uint64_t first = rows.empty() ? 0 : rows.back() + 1;
    if (first >= tensor.total_rows()) return rows;
    MF_ASSIGN_OR_RETURN(const auto more, reader.UpdatedRows(tensor, first, kRowsPerList));
    if (more.empty()) return rows;
    rows.insert(rows.end(), more.begin(), more.end());
  }
}

/// Whether a file of this size looks like one that is written anew, and not like somebody's text.
bool IsOfKind(const std::string& path, OutputKind kind, uint64_t size) {
  if (size == 0) return true;
  std::array<char, sizeof(uint64_t) + 1> begin{};
  std::ifstream(path, std::ios::binary).read(begin.data(), begin.size());
  if (kind == OutputKind::kPlot) return std::string_view(begin.data(), 4) == "<svg";
  // safetensors: the length of a header, which is an object of JSON.
  uint64_t length = 0;
  std::memcpy(&length, begin.data(), sizeof(length));
  return size > begin.size() && length <= size - sizeof(length) && begin.back() == '{';
}

}  // namespace

Status AppendWhole(TensorReader& reader, const TensorSpec& tensor, SafetensorsWriter& writer) {
  std::vector<float> values;
  for (uint64_t first = 0; first < tensor.total_rows(); first += RowsPerRead(tensor)) {
    const uint64_t count = std::min(RowsPerRead(tensor), tensor.total_rows() - first);
    values.resize(count * static_cast<size_t>(tensor.columns));
    MF_RETURN_IF_ERROR(reader.ReadRange(tensor, first, count, values.data()));
    MF_RETURN_IF_ERROR(writer.Append(values.data(), values.size() * sizeof(float)));
  }
  return Status::Ok();
}

Status CheckExportPlace(const std::string& flag, const std::string& path, OutputKind kind) {
  const auto refuse = [&](const std::string& why) {
    return Status::Invalid(flag + " " + path + ": cannot be written" + why +
                           "; name a file in a folder that can");
  };
  if (path.empty()) return refuse(": the name is empty");
  struct stat there;
  const bool exists = stat(path.c_str(), &there) == 0;
  if (path.ends_with('/') || (exists && !S_ISREG(there.st_mode))) {
    return refuse(": it is " + (path.ends_with('/') ? "a folder" : SpecialFile(there.st_mode)));
  }
  if (exists && !IsOfKind(path, kind, static_cast<uint64_t>(there.st_size))) {
    return Status::Invalid(flag + " " + path + ": a file is there that is no " +
                           (kind == OutputKind::kModel ? "model" : "plot") +
                           "; remove it, or give another name");
  }
  const std::string target = FollowLinks(path);
  if (const Status made = MakeFolder(FolderOf(target)); !made.ok()) return refuse("");
  // The name that the file has while it is written: rights, the name's length, the disk's state.
  const std::string tried = target + ".partial-" + std::to_string(getpid());
  const int file = open(tried.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return refuse(std::string(": ") + std::strerror(errno));
  close(file);
  unlink(tried.c_str());
  return Status::Ok();
}

Status ServerTensors::ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                                float* values) {
  return tables_.PullRange(at_, tensor, first, count, values).Wait();
}

Status ServerTensors::ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                               float* values) {
  return tables_.Pull(at_, tensor, rows, values).Wait();
}

Result<std::vector<uint64_t>> ServerTensors::UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                                         uint64_t most) {
  return tables_.ListRows(at_, tensor, first, most);
}

Status Export(TensorReader& reader, const Config& config, const std::vector<TensorSpec>& tensors,
              ExportRows which, const std::string& path) {
  std::vector<TensorEntry> entries;
  std::vector<std::vector<uint64_t>> touched(tensors.size());
  const std::vector<TensorEntry> whole = EntriesOf(tensors);
  const auto by_rows = [which](const TensorSpec& tensor) {
    return which == ExportRows::kTouched && tensor.kind == TensorKind::kMemory;
  };
  for (const TensorSpec& tensor : tensors) {
    if (!by_rows(tensor)) {
      entries.push_back(whole[tensor.id]);
      continue;
    }
    MF_ASSIGN_OR_RETURN(touched[tensor.id], TouchedRows(reader, tensor));
    const int64_t count = static_cast<int64_t>(touched[tensor.id].size());
    entries.push_back({tensor.name + ".rows", DType::kU64, {count}});
    entries.push_back({tensor.name + ".values", DType::kF32, {count, tensor.columns}});
  }
  MF_ASSIGN_OR_RETURN(const auto writer,
                      SafetensorsWriter::Create(path, entries, ModelJson(config)));
  for (const TensorSpec& tensor : tensors) {
    MF_RETURN_IF_ERROR(by_rows(tensor) ? AppendRows(reader, tensor, touched[tensor.id], *writer)
                                       : AppendWhole(reader, tensor, *writer));
  }
  return writer->Finish();
}

}  // namespace mf
