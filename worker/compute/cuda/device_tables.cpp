#include "worker/compute/cuda/device_tables.h"

#include <algorithm>
#include <string>

namespace mf::cuda {

DeviceTables::DeviceTables(const std::vector<TensorSpec>& tensors) {
  tables_.resize(tensors.size());
  const Stream stream;
  for (const TensorSpec& tensor : tensors) {
    if (!tensor.on_device) continue;
    auto table = std::make_unique<Table>();
    const size_t rows = static_cast<size_t>(tensor.total_rows());
    const size_t bytes = rows * static_cast<size_t>(tensor.columns) * sizeof(float);
    const std::string what = "the copy of " + tensor.name + " (exchange.placement)";
    table->rows = DeviceMemory(bytes, what.c_str());
    table->stamps = DeviceMemory(rows * sizeof(uint64_t), what.c_str());
    Check(cudaMemsetAsync(table->stamps.data(), 0, rows * sizeof(uint64_t), stream.get()),
          "stamps of rows");
    bytes_ += bytes;
    tables_[tensor.id] = std::move(table);
  }
  stream.Wait();
}

void DeviceTables::Forget() {
  for (const std::unique_ptr<Table>& table : tables_) {
    if (table == nullptr) continue;
    MutexLock lock(table->mutex);
    ++table->generation;
  }
}

const float* DeviceTables::rows(const TensorSpec& tensor) const {
  return static_cast<const float*>(tables_[tensor.id]->rows.data());
}

Status DeviceTables::Refresh(const TensorSpec& tensor, const Pairs& pairs, RowExchange& rows,
                             Lane& lane, const float** table) {
  Table& own = *tables_[tensor.id];
  MutexLock lock(own.mutex);
  // Any other state is a new one, an earlier one too: a lane that is late has to pull, and is told
  // by the servers that its step has ended.
  if (rows.state() != own.state) {
    own.state = rows.state();
    ++own.generation;
  }
  Status status;
  try {
    status = PullStale(tensor, pairs, rows, lane, own);
  } catch (...) {
    ++own.generation;
    throw;
  }
  if (!status.ok()) ++own.generation;  // stamps say more than is true: none of them counts
  MF_RETURN_IF_ERROR(status);
  *table = static_cast<const float*>(own.rows.data());
  return Status::Ok();
}

Status DeviceTables::PullStale(const TensorSpec& tensor, const Pairs& pairs, RowExchange& rows,
                               Lane& lane, Table& table) {
  const cudaStream_t stream = lane.stream.get();
  const RowBuffers& on = lane.rows;
  const size_t columns = static_cast<size_t>(tensor.columns);
  GroupByRow(stream, pairs, on.groups);
  TakeStale(stream, pairs, on.groups, table.generation, static_cast<uint64_t*>(table.stamps.data()),
            on.stale, on.stale_count);
  const Buffer count = lane.pinned.Take(sizeof(uint32_t));
  lane.Download(on.stale_count, 1, count.as<uint32_t>());
  lane.stream.Wait();
  const size_t stale = *count.as<uint32_t>();
  if (stale == 0) return Status::Ok();

  const Buffer ids = lane.pinned.Take(stale * sizeof(uint32_t));
  lane.Download(on.stale, stale, ids.as<uint32_t>());
  lane.stream.Wait();
  const size_t at_once = PullAtOnce(columns);
  const Buffer values = lane.pinned.Take(std::min(stale, at_once) * columns * sizeof(float));
  for (size_t begin = 0; begin < stale; begin += at_once) {
    const size_t some = std::min(at_once, stale - begin);
    const Buffer wide(some * sizeof(uint64_t));
    std::copy_n(ids.as<uint32_t>() + begin, some, wide.as<uint64_t>());
    MF_RETURN_IF_ERROR(rows.PullRows(tensor, wide, values.as<float>()));
    lane.Upload(values.as<float>(), some * columns, on.values);
    ScatterRows(stream, on.stale + begin, some, on.values, columns,
                static_cast<float*>(table.rows.data()));
    lane.stream.Wait();  // `values` is filled again, or goes back
  }
  return Status::Ok();
}

}  // namespace mf::cuda
