#include "worker/export/server_model.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "common/base/buffer.h"
#include "common/base/logging.h"
#include "worker/config/tensors.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kDeadlineSeconds = 10;  // somebody waits at a terminal
constexpr auto kBetweenLooks = std::chrono::milliseconds(5);
constexpr double kToldSeconds = 1;  // of waiting
constexpr uint64_t kBytesPerRead = uint64_t{64} << 20;

/// The state that was read is there no more.
bool HasGone(Code code) { return code == Code::kStale || code == Code::kWrongEpoch; }

/// The server does not know this observer any more, or begins.
bool IsToBeGreeted(Code code) { return code == Code::kNotJoined || code == Code::kUnavailable; }

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

Status AnotherRun() {
  return Status::Failed("another training has begun on the servers; start again");
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
  MF_ASSIGN_OR_RETURN(model->connection_, Connect(addresses, keys, kDeadlineSeconds));
  MF_ASSIGN_OR_RETURN(model->description_, model->Observe());
  MF_ASSIGN_OR_RETURN(model->run_, RunDescription::FromJson(model->description_));
  Result<Config> config = ConfigOf(model->run_);
  if (!config.ok()) return Status::Invalid(addresses[0] + ": " + config.status().message());
  model->config_ = std::move(config).value();
  model->tables_ = std::make_unique<TableClient>(*model->connection_->client, model->run_);
  MF_RETURN_IF_ERROR(model->ReadNewest());
  return model;
}

/// Servers end a step, or begin another run, one after the other, and a recovery takes them a
/// moment: what they say is waited for.
Result<std::string> ServerModel::Observe() {
  const auto begin = Clock::now();
  bool told = false;
  for (;;) {
    Result<std::string> said = AskOnce();
    const Code code = said.status().code();
    const bool waits = code == Code::kUnavailable || code == Code::kBusy || code == Code::kWrongRun;
    if (said.ok() || !waits) return said;
    if (SecondsSince(begin) > kDeadlineSeconds) {
      return Status(code == Code::kWrongRun ? code : Code::kFailed, said.status().message());
    }
    if (!told && SecondsSince(begin) > kToldSeconds) {
      spdlog::info("waits for the servers: {}", said.status().message());
      told = true;
    }
    std::this_thread::sleep_for(kBetweenLooks);
  }
}

Result<std::string> ServerModel::AskOnce() {
  Client& client = *connection_->client;
  const size_t servers = client.servers();
  std::vector<Request> hellos(servers);
  for (size_t server = 0; server < servers; ++server) {
    hellos[server].body = HelloRequest{.shard = static_cast<uint32_t>(server),
                                       .shards = static_cast<uint32_t>(servers)};
  }
  Client::Outcome outcome = client.CallAll(std::move(hellos)).get();
  if (!outcome.ok()) return outcome.status();
  const std::vector<Reply>& replies = outcome.value();
  const RunState& first = As<HelloReply>(replies[0]).state;
  for (size_t server = 0; server < servers; ++server) {
    const HelloReply& hello = As<HelloReply>(replies[server]);
    client.SetSession(server, hello.session);
    if (hello.state.description != first.description) {
      return Status(Code::kWrongRun, "server " + std::to_string(server) +
                                         " has another training than server 0; name the servers "
                                         "of one cluster");
    }
    if (hello.state.finished != first.finished || first.finished.epoch == 0) {
      return Status(Code::kUnavailable,
                    "the servers do not agree on a step yet; if the cluster is being recovered, "
                    "its workers say so");
    }
  }
  at_ = first.finished;
  return first.description;
}

Status ServerModel::ReadDense() {
  DenseTensors dense(run_.tensors.size());
  // All at once: while a run goes on a step is all the time that there is.
  std::vector<Pending> reads;
  for (const TensorSpec& tensor : run_.tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    const auto columns = static_cast<uint64_t>(tensor.columns);
    const uint64_t most = RowsPerRead(tensor);
    std::vector<float>& values = dense[tensor.id];
    values.resize(tensor.values());
    for (uint64_t row = 0; row < tensor.total_rows(); row += most) {
      reads.push_back(tables_->PullRange(at_, tensor, row,
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
    MF_ASSIGN_OR_RETURN(const std::string description, Observe());
    if (description != description_) return AnotherRun();
    const Status read = ReadDense();
    const bool again = HasGone(read.code()) || IsToBeGreeted(read.code());
    if (!again || SecondsSince(begin) > kDeadlineSeconds) return Explained(read);
  }
}

Result<bool> ServerModel::TakeNewest(const Status& error) {
  if (!HasGone(error.code())) return false;
  MF_RETURN_IF_ERROR(ReadNewest());
  return true;
}

Status ServerModel::Explained(Status status) {
  if (!HasGone(status.code())) return status;
  return {status.code(), status.message() +
                             ": the run went on while its state was read; wait until it ends, or "
                             "use its snapshots or an export"};
}

template <class Call>
Status ServerModel::Ask(const Call& call) {
  const auto begin = Clock::now();
  for (;;) {
    const Status status = call();
    if (!IsToBeGreeted(status.code())) return Explained(status);
    // It was started again, or has forgotten this observer among many.
    const FinishedStep before = at_;
    MF_ASSIGN_OR_RETURN(const std::string description, Observe());
    if (description != description_) return AnotherRun();
    if (at_ != before) {
      return Explained({Code::kStale, "the run is at step " + std::to_string(at_.step) + " now"});
    }
    if (SecondsSince(begin) > kDeadlineSeconds) return Status::Failed(status.message());
  }
}

Status ServerModel::ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                              float* values) {
  const auto columns = static_cast<uint64_t>(tensor.columns);
  const uint64_t most = RowsPerRead(tensor);
  for (uint64_t done = 0; done < count;) {
    const uint64_t rows = std::min(most, count - done);
    MF_RETURN_IF_ERROR(Ask([&] {
      return tables_->PullRange(at_, tensor, first + done, rows, values + done * columns).Wait();
    }));
    done += rows;
  }
  return Status::Ok();
}

Status ServerModel::ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                             float* values) {
  if (rows.empty()) return Status::Ok();
  return Ask([&] { return tables_->Pull(at_, tensor, rows, values).Wait(); });
}

Result<std::vector<uint64_t>> ServerModel::UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                                       uint64_t most) {
  std::vector<uint64_t> rows;
  MF_RETURN_IF_ERROR(Ask([&]() -> Status {
    MF_ASSIGN_OR_RETURN(rows, tables_->ListRows(at_, tensor, first, most));
    return Status::Ok();
  }));
  return rows;
}

Status ServerModel::Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) {
  // Servers take the tokens of a micro-batch at a time.
  const auto most = static_cast<size_t>(run_.rules.tokens_per_micro_batch);
  return Ask([&] {
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
    return WaitForAll(parts);
  });
}

Status ServerModel::Backward(const TensorSpec& tensor, const Hashes&, const Buffer&, float*) {
  return Status::Failed("tensor " + tensor.name + ": an observer does not train");
}

}  // namespace mf
