#include "worker/export/server_model.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "common/base/buffer.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

constexpr double kDeadlineSeconds = 10;  // somebody waits at a terminal
// Servers end a step one after the other, and a recovery takes them a moment.
constexpr auto kBetweenLooks = std::chrono::milliseconds(5);
constexpr int kLooks = 400;
constexpr int kAttempts = 20;
constexpr uint64_t kBytesPerRead = uint64_t{64} << 20;

/// The state that was read is there no more, or this observer is not known any more.
bool HasGone(Code code) {
  return code == Code::kStale || code == Code::kWrongEpoch || code == Code::kNotJoined ||
         code == Code::kUnavailable;
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
  MF_ASSIGN_OR_RETURN(model->connection_, Connect(addresses, keys, kDeadlineSeconds));
  MF_ASSIGN_OR_RETURN(model->description_, model->Observe());
  MF_ASSIGN_OR_RETURN(model->run_, RunDescription::FromJson(model->description_));
  Result<Config> config = ConfigOf(model->run_);
  if (!config.ok()) return Status::Invalid(addresses[0] + ": " + config.status().message());
  model->config_ = std::move(config).value();
  model->tables_ = std::make_unique<TableClient>(*model->connection_->client, model->run_);
  if (const Status read = model->ReadDense(); !read.ok()) {
    MF_ASSIGN_OR_RETURN(const bool taken, model->TakeNewest(read));
    if (!taken) return read;
  }
  return model;
}

Result<std::string> ServerModel::Observe() {
  Client& client = *connection_->client;
  const size_t servers = client.servers();
  for (int look = 1;; ++look) {
    std::vector<Request> hellos(servers);
    for (size_t server = 0; server < servers; ++server) {
      hellos[server].body = HelloRequest{.shard = static_cast<uint32_t>(server),
                                         .shards = static_cast<uint32_t>(servers)};
    }
    Client::Outcome outcome = client.CallAll(std::move(hellos)).get();
    if (!outcome.ok()) return outcome.status();
    const std::vector<Reply>& replies = outcome.value();
    const RunState& first = As<HelloReply>(replies[0]).state;
    bool alike = true;
    for (size_t server = 0; server < servers; ++server) {
      const HelloReply& hello = As<HelloReply>(replies[server]);
      client.SetSession(server, hello.session);
      if (hello.state.description != first.description) {
        return Status(Code::kWrongRun, "server " + std::to_string(server) +
                                           " has another training than server 0; name the servers "
                                           "of one cluster");
      }
      alike &= hello.state.finished == first.finished;
    }
    if (alike && first.finished.epoch > 0) {
      at_ = first.finished;
      return first.description;
    }
    if (look == kLooks) {
      return Status::Failed(
          "the servers do not agree on a step; is the cluster being recovered? Its worker says");
    }
    std::this_thread::sleep_for(kBetweenLooks);
  }
}

Status ServerModel::ReadDense() {
  DenseTensors dense(run_.tensors.size());
  for (const TensorSpec& tensor : run_.tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    std::vector<float>& values = dense[tensor.id];
    values.resize(tensor.total_rows() * static_cast<size_t>(tensor.columns));
    MF_RETURN_IF_ERROR(ReadRange(tensor, 0, tensor.total_rows(), values.data()));
  }
  dense_ = std::make_shared<const DenseTensors>(std::move(dense));
  return Status::Ok();
}

Result<bool> ServerModel::TakeNewest(const Status& error) {
  if (!HasGone(error.code())) return false;
  Status read;
  // Between hello and the last tensor the next step may have ended.
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    MF_ASSIGN_OR_RETURN(const std::string description, Observe());
    if (description != description_) {
      return Status(Code::kWrongRun, "another training has begun on the servers; start again");
    }
    read = ReadDense();
    if (read.ok()) return true;
    if (!HasGone(read.code())) break;
  }
  return read;
}

Status ServerModel::Explained(Status status) {
  if (!HasGone(status.code())) return status;
  return {status.code(), status.message() +
                             ": the run went on while its state was read; wait until it ends, or "
                             "use its snapshots or an export"};
}

Status ServerModel::ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                              float* values) {
  const auto columns = static_cast<uint64_t>(tensor.columns);
  const uint64_t most = std::max<uint64_t>(kBytesPerRead / (columns * sizeof(float)), 1);
  for (uint64_t done = 0; done < count;) {
    const uint64_t rows = std::min(most, count - done);
    MF_RETURN_IF_ERROR(Explained(
        tables_->PullRange(at_, tensor, first + done, rows, values + done * columns).Wait()));
    done += rows;
  }
  return Status::Ok();
}

Status ServerModel::ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                             float* values) {
  if (rows.empty()) return Status::Ok();
  return Explained(tables_->Pull(at_, tensor, rows, values).Wait());
}

Result<std::vector<uint64_t>> ServerModel::UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                                       uint64_t most) {
  auto rows = tables_->ListRows(at_, tensor, first, most);
  if (!rows.ok()) return Explained(rows.status());
  return rows;
}

Status ServerModel::Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  // Servers take the tokens of a micro-batch at a time.
  const auto most = static_cast<size_t>(run_.rules.tokens_per_micro_batch);
  std::vector<Pending> parts;
  for (size_t begin = 0; begin < hashes.tokens; begin += most) {
    const size_t count = std::min(most, hashes.tokens - begin);
    const bool whole = count == hashes.tokens;
    const auto part = [&](const Buffer& values, size_t bytes) {
      return whole ? values : TokensOf(values, bytes, hashes.pairs, hashes.tokens, begin, count);
    };
    parts.push_back(tables_->Forward(
        at_, tensor, count, part(hashes.indices, static_cast<size_t>(hashes.index_bytes)),
        part(hashes.weights, sizeof(float)), y + begin * static_cast<size_t>(tensor.columns)));
  }
  Status status;
  for (Pending& part : parts) {  // all, as they write to y
    if (Status ended = part.Wait(); status.ok()) status = std::move(ended);
  }
  return Explained(std::move(status));
}

Status ServerModel::Backward(const TensorSpec& tensor, const Hashes&, const Buffer&, float*) {
  return Status::Failed("tensor " + tensor.name + ": an observer does not train");
}

}  // namespace mf
