#include "worker/initial/bring_rows.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "common/base/logging.h"
#include "common/client/work_loop.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPause(300);  // before it is tried again
constexpr std::chrono::seconds kBetweenLines(10);

Frame FrameOf(const void* data, size_t bytes) {
  Buffer buffer(bytes);
  if (bytes > 0) std::memcpy(buffer.data(), data, bytes);
  return buffer;
}

template <class T>
Frame FrameOf(const std::vector<T>& values) {
  return FrameOf(values.data(), values.size() * sizeof(T));
}

/// By server: it has them.
Result<std::vector<bool>> There(Client& client) {
  const Client::Outcome replies =
      client.CallAll(std::vector<Request>(client.servers(), {.body = InitialiseRequest{}})).get();
  if (!replies.ok()) return replies.status();
  std::vector<bool> there;
  for (const Reply& reply : replies.value()) there.push_back(As<InitialiseReply>(reply).there);
  return there;
}

Status BringTo(const std::vector<bool>& there, RowSource& source, Client& client,
               const RunDescription& run, const BringHooks& hooks) {
  InitialiseRequest request{.attempt = std::random_device()() | uint64_t{1} << 32};
  const auto shards = static_cast<int64_t>(there.size());
  /// To all that lack it; `payload` makes a server's frames. A server takes the state of one worker
  /// at a time, so the first part goes to one after the other, in their order: two workers that
  /// each have some of them would wait for each other.
  const auto send = [&](const auto& payload) -> Status {
    std::vector<Client::Answer> answers;
    Status status;
    for (int64_t shard = 0; shard < shards && status.ok(); ++shard) {
      const auto server = static_cast<size_t>(shard);
      if (there[server]) continue;
      Client::Answer answer = client.Call(server, {.body = request, .payload = payload(shard)});
      if (request.part == 0) {
        status = answer.get().status();
      } else {
        answers.push_back(std::move(answer));
      }
    }
    for (Client::Answer& answer : answers) {
      const Client::Outcome outcome = answer.get();
      if (status.ok()) status = outcome.status();
    }
    ++request.part;
    return status;
  };
  MF_RETURN_IF_ERROR(source.Begin(run));
  RowStates rows;
  uint64_t sent = 0;
  auto next_line = Clock::now() + kBetweenLines;
  while (true) {
    if (hooks.stopped()) return {Code::kUnavailable, "stopped before the servers had the model"};
    MF_ASSIGN_OR_RETURN(const bool more, source.Next(&rows));
    if (!more) break;
    request.tensor = rows.tensor;
    const TensorSpec& tensor = run.tensors[rows.tensor];
    if (!StatesFit(rows, tensor, run.rules.column_blocks)) {
      return Status::Invalid(
          "the state that the run begins with was trained with other "
          "column_blocks, by which " +
          tensor.name + "'s optimizer keeps its numbers: use the same");
    }
    MF_RETURN_IF_ERROR(send([&](int64_t shard) {
      return FramesFor(rows, tensor, run.rules.column_blocks, shard, shards);
    }));
    sent += rows.rows.size();
    if (Clock::now() < next_line) continue;
    next_line = Clock::now() + kBetweenLines;
    spdlog::info("bringing the servers the model: {:.0f}%",
                 100.0 * static_cast<double>(sent) /
                     static_cast<double>(std::max<uint64_t>(1, source.total_rows())));
  }
  request.last = true;
  return send([&](int64_t) { return Frames{Frame(), Frame(), FrameOf(source.rates())}; });
}

}  // namespace

Status BringRows(RowSource& rows, Client& client, const RunDescription& run,
                 const BringHooks& hooks) {
  std::string said;
  auto next_line = Clock::now();
  while (true) {
    Status status;
    Result<std::vector<bool>> there = There(client);
    if (there.ok()) {
      if (std::count(there->begin(), there->end(), false) == 0) return Status::Ok();
      status = BringTo(*there, rows, client, run, hooks);
    } else {
      status = there.status();
    }
    if (status.ok()) continue;
    if (hooks.stopped() || !IsSuperseded(status.code())) return status;
    if (std::exchange(said, status.message()) != status.message() || Clock::now() > next_line) {
      spdlog::info("waiting: {}", status.message());
      next_line = Clock::now() + kBetweenLines;
    }
    std::this_thread::sleep_for(kPause);
    if (status.code() == Code::kNotJoined) MF_RETURN_IF_ERROR(hooks.join());
  }
}

}  // namespace mf
