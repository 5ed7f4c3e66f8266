#include "worker/export/export.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "worker/export/safetensors.h"

namespace mf {
namespace {

constexpr uint64_t kFloatsPerRead = 1 << 22;  // 16 MiB at a time
constexpr uint64_t kRowsPerList = 1 << 20;

uint64_t RowsPerRead(const TensorSpec& tensor) {
  return std::max<uint64_t>(1, kFloatsPerRead / static_cast<uint64_t>(tensor.columns));
}

Status AppendWhole(TableClient& tables, FinishedStep at, const TensorSpec& tensor,
                   SafetensorsWriter& writer) {
  std::vector<float> values;
  for (uint64_t first = 0; first < tensor.total_rows(); first += RowsPerRead(tensor)) {
    const uint64_t count = std::min(RowsPerRead(tensor), tensor.total_rows() - first);
    values.resize(count * static_cast<size_t>(tensor.columns));
    MF_RETURN_IF_ERROR(tables.PullRange(at, tensor, first, count, values.data()).Wait());
    MF_RETURN_IF_ERROR(writer.Append(values.data(), values.size() * sizeof(float)));
  }
  return Status::Ok();
}

Status AppendRows(TableClient& tables, FinishedStep at, const TensorSpec& tensor,
                  const std::vector<uint64_t>& rows, SafetensorsWriter& writer) {
  MF_RETURN_IF_ERROR(writer.Append(rows.data(), rows.size() * sizeof(uint64_t)));
  std::vector<float> values;
  for (size_t first = 0; first < rows.size(); first += RowsPerRead(tensor)) {
    const size_t end = std::min<size_t>(rows.size(), first + RowsPerRead(tensor));
    const std::vector<uint64_t> some(rows.begin() + static_cast<ptrdiff_t>(first),
                                     rows.begin() + static_cast<ptrdiff_t>(end));
    values.resize(some.size() * static_cast<size_t>(tensor.columns));
    MF_RETURN_IF_ERROR(tables.Pull(at, tensor, some, values.data()).Wait());
    MF_RETURN_IF_ERROR(writer.Append(values.data(), values.size() * sizeof(float)));
  }
  return Status::Ok();
}

Result<std::vector<uint64_t>> TouchedRows(TableClient& tables, FinishedStep at,
                                          const TensorSpec& tensor) {
  std::vector<uint64_t> rows;
  while (true) {
    const uint64_t first = rows.empty() ? 0 : rows.back() + 1;
    if (first >= tensor.total_rows()) return rows;
    MF_ASSIGN_OR_RETURN(const auto more, tables.ListRows(at, tensor, first, kRowsPerList));
    if (more.empty()) return rows;
    rows.insert(rows.end(), more.begin(), more.end());
  }
}

}  // namespace

Status CheckExportPlace(const std::string& flag, const std::string& path) {
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (access(folder.c_str(), W_OK) == 0 && !std::filesystem::is_directory(path, error))
    return Status::Ok();
  return Status::Invalid(flag + " " + path +
                         ": cannot be written; name a file in a folder that can");
}

Status Export(TableClient& tables, const Config& config, const std::vector<TensorSpec>& tensors,
              FinishedStep at, ExportRows which, const std::string& path) {
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
    MF_ASSIGN_OR_RETURN(touched[tensor.id], TouchedRows(tables, at, tensor));
    const int64_t count = static_cast<int64_t>(touched[tensor.id].size());
    entries.push_back({tensor.name + ".rows", DType::kU64, {count}});
    entries.push_back({tensor.name + ".values", DType::kF32, {count, tensor.columns}});
  }
  MF_ASSIGN_OR_RETURN(const auto writer,
                      SafetensorsWriter::Create(path, entries, ModelJson(config)));
  for (const TensorSpec& tensor : tensors) {
    MF_RETURN_IF_ERROR(by_rows(tensor) ? AppendRows(tables, at, tensor, touched[tensor.id], *writer)
                                       : AppendWhole(tables, at, tensor, *writer));
  }
  return writer->Finish();
}

}  // namespace mf
