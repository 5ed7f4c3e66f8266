#include "worker/export/server_model.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "common/base/buffer.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kDeadlineSeconds = 10;  // somebody waits at a terminal
constexpr uint64_t kBytesPerRead = uint64_t{64} << 20;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

uint64_t RowsPerRead(const TensorSpec& tensor) {
  return std::max<uint64_t>(kBytesPerRead / (static_cast<uint64_t>(tensor.columns) * sizeof(float)),
                            1);
}

/// Tokens [begin, begin + count) of pair-major numbers of so many bytes.
Buffer TokensOf(const Buffer& values, size_t bytes, size_t pairs, size_t tokens, size_t begin,
                size_t count) {
  const Buffer part(pairs * count * bytes);
  for (size_t pair = 0; pair < pairs; ++pair) {
    std::memcpy(part.data() + pair * count * bytes, values.data() + (pair * tokens + begin) * bytes,
                count * bytes);
  }
  return part;
}

}  // namespace

Result<std::unique_ptr<ServerModel>> ServerModel::Open(const std::vector<std::string>& addresses,
                                                       const std::string& keys) {
  std::unique_ptr<ServerModel> model(new ServerModel());
  MF_ASSIGN_OR_RETURN(
      model->reader_,
      Reader::Open({.servers = addresses, .keys = keys, .deadline_seconds = kDeadlineSeconds}));
  Result<Config> config = ConfigOf(model->run());
  if (!config.ok()) return Status::Invalid(addresses[0] + ": " + config.status().message());
  model->config_ = std::move(config).value();
  MF_RETURN_IF_ERROR(model->ReadNewest());
  return model;
}

Status ServerModel::ReadDense() {
  DenseTensors dense(run().tensors.size());
  // All at once: while a run goes on a step is all the time that there is.
  std::vector<Pending> reads;
  for (const TensorSpec& tensor : run().tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    const auto columns = static_cast<uint64_t>(tensor.columns);
    const uint64_t most = RowsPerRead(tensor);
    std::vector<float>& values = dense[tensor.id];
    values.resize(tensor.values());
    for (uint64_t row = 0; row < tensor.total_rows(); row += most) {
      reads.push_back(reader_->tables().PullRange(reader_->at(), tensor, row,
                                                  std::min(most, tensor.total_rows() - row),
                                                  values.data() + row * columns));
    }
  }
  MF_RETURN_IF_ERROR(WaitForAll(reads));
  dense_ = std::make_shared<const DenseTensors>(std::move(dense));
  return Status::Ok();
}

Status ServerModel::WaitForAll(std::vector<Pending>& calls) {
  Status status;
  for (Pending& call : calls) {  // all, as each writes where the caller said
    if (Status ended = call.Wait(); status.ok()) status = std::move(ended);
  }
  return status;
}

Status ServerModel::ReadNewest() {
  const auto begin = Clock::now();
  for (;;) {
    // Between hello and the last tensor the next step may have ended.
    MF_RETURN_IF_ERROR(reader_->Refresh().status());
    const Status read = reader_->Read([this] { return ReadDense(); });
    if (!Reader::HasGone(read) || SecondsSince(begin) > kDeadlineSeconds) return Explained(read);
  }
}

Result<bool> ServerModel::TakeNewest(const Status& error) {
  if (!Reader::HasGone(error)) return false;
  MF_RETURN_IF_ERROR(ReadNewest());
  return true;
}

Status ServerModel::Explained(Status status) {
  if (!Reader::HasGone(status)) return status;
  return {status.code(), status.message() +
                             ": the run went on while its state was read; wait until it ends, or "
                             "use its snapshots or an export"};
}

Status ServerModel::Ask(const std::function<Status()>& call) {
  return Explained(reader_->Read(call));
}

Status ServerModel::ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                              float* values) {
  const auto columns = static_cast<uint64_t>(tensor.columns);
  const uint64_t most = RowsPerRead(tensor);
  for (uint64_t done = 0; done < count;) {
    const uint64_t rows = std::min(most, count - done);
    MF_RETURN_IF_ERROR(Ask([&] {
      return reader_->tables()
          .PullRange(reader_->at(), tensor, first + done, rows, values + done * columns)
          .Wait();
    }));
    done += rows;
  }
  return Status::Ok();
}

Status ServerModel::ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                             float* values) {
  if (rows.empty()) return Status::Ok();
  return Ask([&] { return reader_->tables().Pull(reader_->at(), tensor, rows, values).Wait(); });
}

Result<std::vector<uint64_t>> ServerModel::UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                                       uint64_t most) {
  std::vector<uint64_t> rows;
  MF_RETURN_IF_ERROR(Ask([&]() -> Status {
    MF_ASSIGN_OR_RETURN(rows, reader_->tables().ListRows(reader_->at(), tensor, first, most));
    return Status::Ok();
  }));
  return rows;
}

Status ServerModel::Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  // Servers take the tokens of a micro-batch at a time.
  const auto most = static_cast<size_t>(run().rules.tokens_per_micro_batch);
  return Ask([&] {
    std::vector<Pending> parts;
    for (size_t begin = 0; begin < hashes.tokens; begin += most) {
      const size_t count = std::min(most, hashes.tokens - begin);
      const bool whole = count == hashes.tokens;
      const auto part = [&](const Buffer& values, size_t bytes) {
        return whole ? values : TokensOf(values, bytes, hashes.pairs, hashes.tokens, begin, count);
      };
      parts.push_back(reader_->tables().Forward(
          reader_->at(), tensor, count,
          part(hashes.indices, static_cast<size_t>(hashes.index_bytes)),
          part(hashes.weights, sizeof(float)), y + begin * static_cast<size_t>(tensor.columns)));
    }
    return WaitForAll(parts);
  });
}

Status ServerModel::Backward(const TensorSpec& tensor, const Hashes&, const Buffer&, float*) {
  return Status::Failed("tensor " + tensor.name + ": an observer does not train");
}

}  // namespace mf
