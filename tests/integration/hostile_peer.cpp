// A peer of real servers that sends what no worker would: until its standard input ends it sends
// garbage, requests without a session, and, joined to the run, requests with one thing wrong each.
// None of these may be answered with ok. Prints how many messages it sent and what came back.
//
//   hostile_peer CONFIG DATA SEED ADDRESS...
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/base/digest.h"
#include "common/client/client.h"
#include "common/client/membership.h"
#include "common/run/column_blocks.h"
#include "tests/support/request_fields.h"
#include "worker/config/tensors.h"
#include "worker/data/data.h"

namespace mf {
namespace {

constexpr uint64_t kMustFail = 0xBAD0BAD0;  // upper half of the id of a request that is wrong
constexpr int kBatch = 64;
constexpr auto kPause = std::chrono::milliseconds(4);  // the training is to go on, too

template <class T>
T Must(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "hostile_peer: %s\n", result.status().message().c_str());
    std::exit(1);
  }
  return std::move(result).value();
}

Frame Zeros(size_t size) {
  Buffer buffer(size);
  if (size > 0) std::memset(buffer.data(), 0, size);
  return buffer;
}

template <class T>
Frame Values(const std::vector<T>& values) {
  Buffer buffer(values.size() * sizeof(T));
  std::memcpy(buffer.data(), values.data(), buffer.size());
  return buffer;
}

class HostilePeer {
 public:
  HostilePeer(const RunDescription& run, uint64_t seed, const std::vector<std::string>& addresses)
      : run_(run),
        tensors_(run_.tensors),
        addresses_(addresses),
        random_(seed),
        transport_(Must(ConnectZmq(context_, addresses))),
        honest_(Must(ConnectZmq(context_, addresses)), addresses, Client::Options{}) {}

  int Run();

 private:
  uint64_t Below(uint64_t end) { return random_() % end; }
  Frame Bytes(size_t size);
  Request Hello(size_t server) const;
  void Look();
  Message Garbage(size_t server);
  Request WithoutSession(size_t server);
  Request Wrong(size_t server);
  Request WrongPairs(size_t server, bool backward);
  Request WrongPush(size_t server);
  Request WrongPull();
  Request WrongCoordinator();
  OpenStep open() const { return state_.next(); }
  const TensorSpec& Draw(TensorKind kind);
  size_t Width(const TensorSpec& tensor, size_t server) const;
  void Send(size_t server, const Message& message);
  void SendWrong(size_t server, Request request);
  void TakeReplies();

  const RunDescription run_;
  const std::vector<TensorSpec>& tensors_;
  const std::vector<std::string> addresses_;
  std::mt19937_64 random_;
  TransportContext context_;
  std::unique_ptr<ClientTransport> transport_;
  Client honest_;  // joins, and asks where the run is
  std::vector<uint64_t> sessions_;
  FinishedStep state_;  // of server 0, as far as it is known
  uint64_t sent_ = 0;
  uint64_t accepted_ = 0;
  std::map<Code, uint64_t> refused_;
};

Frame HostilePeer::Bytes(size_t size) {
  Buffer buffer(size);
  for (size_t i = 0; i < size; ++i) buffer.data()[i] = static_cast<std::byte>(random_());
  return buffer;
}

Request HostilePeer::Hello(size_t server) const {
  return Membership(run_.Json(), addresses_.size()).Hellos()[server];
}

/// Joins if that is still to be done, and asks for epochs and steps.
void HostilePeer::Look() {
  if (!sessions_.empty()) {
    const Client::Outcome reply = honest_.Call(0, {.body = StatusRequest{}}).get();
    state_ = As<StatusReply>(Must(reply)[0]).state.finished;
    return;
  }
  std::vector<Request> hellos;
  for (size_t server = 0; server < addresses_.size(); ++server) hellos.push_back(Hello(server));
  const std::vector<Reply> replies = Must(honest_.CallAll(std::move(hellos)).get());
  state_ = As<HelloReply>(replies[0]).state.finished;
  for (size_t server = 0; server < replies.size(); ++server) {
    sessions_.push_back(As<HelloReply>(replies[server]).session);
    honest_.SetSession(server, sessions_.back());
  }
}

Message HostilePeer::Garbage(size_t server) {
  switch (Below(9)) {
    case 0:
      return {Bytes(1 + Below(300))};
    case 1:
      return {Frame()};
    case 2:
      return Message(100, Bytes(8));
    case 3:
      return Message(1 + Below(20), Frame());
    case 4:
      return {Bytes(8 * (1 + Below(40))), Bytes(Below(100))};
    case 5:  // a header over the limit, now and then
      return {Zeros(Below(50) == 0 ? (8 << 20) + 8 : 8)};
    default: {
      Message message = Encode(Hello(server));
      const Frame header = message[0];
      Buffer copy(Below(2) == 0 ? header.size() : 1 + Below(header.size()));  // cut off, misaligned
      std::memcpy(copy.data(), header.data(), copy.size());
      // The first words hold the segment table and the pointers: there it hurts most.
      for (uint64_t i = 0; i < 1 + Below(6); ++i) {
        copy.data()[Below(std::min<uint64_t>(copy.size(), 64))] = static_cast<std::byte>(random_());
      }
      return {Frame(copy)};
    }
  }
}

Request HostilePeer::WithoutSession(size_t server) {
  Request request = Hello(server);
  HelloRequest& hello = std::get<HelloRequest>(request.body);
  switch (Below(9)) {
    case 0:
      hello.protocol =
          Below(2) == 0 ? 0 : kProtocolVersion + 1 + static_cast<uint32_t>(Below(1000));
      return request;
    case 1:
      hello.shard += 1;
      return request;
    case 2:
      hello.shards = static_cast<uint32_t>(random_());
      return request;
    case 3:
      hello.description = Below(2) == 0 ? "{" : std::string(1 + Below(5000), '[');
      return request;
    case 4: {
      RunDescription other = run_;
      other.rules.seed += 1 + Below(1000);
      hello.description = other.Json();
      return request;
    }
    case 5: {
      const std::vector<std::string> ids = {run_.RunId(),           "", ".", "..", "/", "../state",
                                            run_.RunId() + "/../.."};
      return {.body = DeleteRunRequest{ids[Below(ids.size())]}};
    }
    default:
      do {
        request.body = EmptyRequest(static_cast<Op>(1 + Below(kOpCount - 1)));
      } while (request.op() == Op::kListRuns);  // which is nobody's secret
      request.session = Below(2) == 0 ? 0 : random_();
      request.payload = {Bytes(Below(100)), Bytes(Below(100))};
      return request;
  }
}

const TensorSpec& HostilePeer::Draw(TensorKind kind) {
  while (true) {
    const TensorSpec& tensor = tensors_[Below(tensors_.size())];
    if (tensor.kind == kind) return tensor;
  }
}

size_t HostilePeer::Width(const TensorSpec& tensor, size_t server) const {
  const auto blocks = ColumnBlocks(tensor.columns, run_.rules.column_blocks);
  const BlockRange own =
      ShardBlocks(static_cast<int64_t>(blocks.size()), static_cast<int64_t>(server),
                  static_cast<int64_t>(addresses_.size()));
  return static_cast<size_t>(blocks[static_cast<size_t>(own.end) - 1].end -
                             blocks[static_cast<size_t>(own.begin)].begin);
}

Request HostilePeer::WrongPairs(size_t server, bool backward) {
  const TensorSpec& tensor = Draw(TensorKind::kMemory);
  const uint32_t due = static_cast<uint32_t>(run_.rules.tokens_per_micro_batch);
  uint32_t tokens = due, id = tensor.id;
  OpenStep at = open();
  const size_t pairs = static_cast<size_t>(tensor.tables * tensor.probes) * due;
  const size_t index_bytes = static_cast<size_t>(tensor.index_bytes());
  std::vector<size_t> sizes = {pairs * index_bytes, pairs * sizeof(float)};
  if (backward) {
    sizes.push_back(due * Width(tensor, server) * sizeof(float));
    sizes.push_back(due);
  }
  Frames payload;
  for (const size_t size : sizes) payload.push_back(Zeros(size));
  const size_t frame = Below(sizes.size());
  switch (Below(8)) {
    case 0:
      tokens = Below(2) == 0 ? 0 : due + 1 + static_cast<uint32_t>(Below(9));
      break;
    case 1:
      tokens = std::numeric_limits<uint32_t>::max() - static_cast<uint32_t>(Below(3));
      break;
    case 2:
      payload[frame] = Zeros(Below(2) == 0 ? sizes[frame] + 1 : sizes[frame] - 1);
      break;
    case 3:
      payload[frame] = Frame();
      break;
    case 4:
      payload.resize(Below(2) == 0 ? Below(sizes.size()) : sizes.size() + 1 + Below(90));
      break;
    case 5: {
      // Out of range where the index type holds more than there are rows.
      if (static_cast<uint64_t>(tensor.rows) >> (8 * index_bytes) != 0) {
        id = Draw(TensorKind::kDense).id;
        break;
      }
      Buffer indices(sizes[0]);
      std::memset(indices.data(), 0, indices.size());
      std::memset(indices.data() + Below(pairs) * index_bytes, 0xFF, index_bytes);
      payload[0] = indices;
      break;
    }
    case 6:
      at.step += 100'000;
      break;
    default:
      at.epoch += 1 + Below(1000);
  }
  if (!backward) {
    return {.body = ForwardRequest{.at = at, .tensor = id, .tokens = tokens}, .payload = payload};
  }
  return {.body = BackwardRequest{.at = at, .tensor = id, .tokens = tokens}, .payload = payload};
}

Request HostilePeer::WrongPush(size_t server) {
  const TensorSpec& tensor = Draw(TensorKind::kDense);
  const uint64_t total = tensor.total_rows();
  const size_t row_bytes = Width(tensor, server) * sizeof(float);
  Request request{.body = PushRequest{.at = open(), .tensor = tensor.id, .row_count = total},
                  .payload = {Frame(), Frame(), Zeros(total * row_bytes)}};
  PushRequest& push = std::get<PushRequest>(request.body);
  switch (Below(9)) {
    case 0:
      push.row_count = total + 1 + Below(1000);
      break;
    case 1:
      push.row_count = random_() | 1ull << 40;
      break;
    case 2:
      request.payload = {Values<uint64_t>({total}), Frame(), Zeros(row_bytes)};
      break;
    case 3:
      request.payload = {Values<uint64_t>({0, 0}), Frame(), Zeros(2 * row_bytes)};
      break;
    case 4:
      request.payload[0] = Zeros(7);
      break;
    case 5:
      request.payload[1] = Zeros(total * sizeof(uint32_t) + 4);
      break;
    case 6:
      request.payload[2] = Zeros(total * row_bytes - 1);
      break;
    case 7:
      push.micro_batch = static_cast<uint32_t>(run_.rules.micro_batches + Below(1000));
      break;
    default:
      push.tensor = static_cast<uint32_t>(tensors_.size() + Below(1u << 31));
  }
  return request;
}

Request HostilePeer::WrongPull() {
  const TensorSpec& tensor = Draw(TensorKind::kDense);
  const uint64_t total = tensor.total_rows();
  Request request{.body = PullRequest{.at = open(), .tensor = tensor.id}, .payload = {Frame()}};
  PullRequest& pull = std::get<PullRequest>(request.body);
  switch (Below(6)) {
    case 0:
      pull.row_count = total + 1 + Below(1ull << 62);
      break;
    case 1:
      pull.row_count = 1;
      pull.first_row = total + Below(std::numeric_limits<uint64_t>::max() - total);
      break;
    case 2:
      request.payload = {Values<uint64_t>({std::numeric_limits<uint64_t>::max()})};
      break;
    case 3:
      request.payload = {Zeros(9)};
      break;
    case 4:
      request.payload.resize(Below(2) * 14);
      break;
    default:
      pull.at = FinishedStep{state_.epoch, std::numeric_limits<uint64_t>::max() - Below(3)};
  }
  return request;
}

Request HostilePeer::WrongCoordinator() {
  const double number = Below(2) == 0 ? std::numeric_limits<double>::quiet_NaN() : 1e300;
  const double infinite = std::numeric_limits<double>::infinity();
  const std::string text(Below(1000), '\xFF');
  OpenStep at = open();
  if (Below(2) == 0) {
    at.epoch += 1 + Below(1000);
  } else {
    at.step += 100'000 + Below(1ull << 40);
  }
  const FinishedStep after{at.epoch, at.step};
  switch (Below(9)) {
    case 0:
      return {.body = PrepareRequest{at}};
    case 1:
      return {.body = ApplyRequest{.at = at, .lr = number, .scale = 1, .grad_norm = infinite}};
    case 2:
      return {.body = DropRequest{.at = at, .grad_norm = infinite}};
    case 3:
      return {.body = MicroBatchDoneRequest{at, static_cast<uint32_t>(random_()), infinite}};
    case 4:
      return {.body = StepEndedRequest{.at = at, .grad_norm = infinite, .not_finite = text}};
    case 5:
      return {.body = EvaluatedRequest{after, infinite}};
    case 6:
      return {.body = RecoveredRequest{.to = after, .epoch_seen = random_()}};
    case 7:
      return {.body = RenewRequest{1ull << 62 | random_()}};
    default: {
      // To a state that is not there, or of an epoch that is over.
      const FinishedStep to = Below(2) == 0
                                  ? FinishedStep{at.epoch, 1 + random_() / 2}
                                  : FinishedStep{Below(std::max<uint64_t>(1, state_.epoch)), 0};
      return {.body = RollbackRequest{.to = to}};
    }
  }
}

Request HostilePeer::Wrong(size_t server) {
  switch (Below(5)) {
    case 0:
      return WrongPairs(server, false);
    case 1:
      return WrongPairs(server, true);
    case 2:
      return WrongPush(server);
    case 3:
      return WrongPull();
    default:
      return WrongCoordinator();
  }
}

void HostilePeer::Send(size_t server, const Message& message) {
  if (transport_->Send(server, message)) ++sent_;
}

void HostilePeer::SendWrong(size_t server, Request request) {
  request.id = kMustFail << 32 | static_cast<uint64_t>(request.op());
  Send(server, Encode(request));
}

void HostilePeer::TakeReplies() {
  size_t server = 0;
  Message message;
  while (transport_->Receive(&server, &message)) {
    Result<Reply> reply = DecodeReply(message);
    if (!reply.ok()) continue;
    if (reply->code != Code::kOk) {
      ++refused_[reply->code];
    } else if (reply->id >> 32 == kMustFail) {
      std::fprintf(stderr, "hostile_peer: server %zu said ok to a wrong %s\n", server,
                   OpName(static_cast<Op>(reply->id & 0xFF)));
      ++accepted_;
    }
  }
}

int HostilePeer::Run() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  while (poll(&input, 1, 0) == 0) {
    Look();
    for (int i = 0; i < kBatch; ++i) {
      const size_t server = Below(addresses_.size());
      if (i % 4 == 0) {
        Send(server, Garbage(server));
      } else if (i % 4 == 1) {
        SendWrong(server, WithoutSession(server));
      } else {
        Request request = Wrong(server);
        request.session = sessions_[server];
        SendWrong(server, std::move(request));
      }
    }
    std::this_thread::sleep_for(kPause);
    TakeReplies();
    // A connection of its own now and then: peers come and go, with answers on their way.
    if (Below(50) == 0) transport_ = Must(ConnectZmq(context_, addresses_));
  }
  std::printf("sent %llu\n", static_cast<unsigned long long>(sent_));
  for (const auto& [code, count] : refused_) {
    std::printf("code %d: %llu\n", static_cast<int>(code), static_cast<unsigned long long>(count));
  }
  return accepted_ == 0 ? 0 : 1;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: hostile_peer CONFIG DATA SEED ADDRESS...\n");
    return 2;
  }
  const mf::Config config = mf::Must(mf::LoadConfig(argv[1], {}));
  const auto data = mf::Must(mf::TokenSource::Open(config, argv[2], ""));
  const mf::RunDescription run = mf::DescribeRun(config, data->Digest());
  return mf::HostilePeer(run, std::stoull(argv[3]), {argv + 4, argv + argc}).Run();
}
