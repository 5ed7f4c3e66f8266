// A client that sends a server as much as it can, for flood_bench.py, until its standard input
// ends:
//   unjoined  requests for status without a session
//   joined    valid requests for sums, whose answers it reads
//   unread    valid requests for whole tensors, whose answers it never reads
// Prints how many requests it sent and how many answers it read.
//
//   flood_peer unjoined|joined|unread CONFIG DATA ADDRESS
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "common/client/client.h"
#include "common/client/connection.h"
#include "common/client/membership.h"
#include "worker/config/tensors.h"
#include "worker/data/data.h"

namespace mf {
namespace {

constexpr uint64_t kInFlight = 64;  // of "joined"

template <class T>
T Must(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "flood_peer: %s\n", result.status().message().c_str());
    std::exit(1);
  }
  return std::move(result).value();
}

Frame Zeros(size_t size) {
  Buffer buffer(size);
  std::memset(buffer.data(), 0, size);
  return buffer;
}

bool InputEnded() {
  pollfd input = {STDIN_FILENO, POLLIN, 0};
  return poll(&input, 1, 0) > 0;
}

class FloodPeer {
 public:
  FloodPeer(std::string kind, const RunDescription& run, const std::string& address)
      : kind_(std::move(kind)),
        run_(run),
        honest_(Must(Connect({address}, "", 60))),
        transport_(Must(ConnectZmq(context_, {address}))) {}

  int Run() {
    if (kind_ != "unjoined") Join();
    uint64_t sent = 0, read = 0, id = 1;
    auto looked = std::chrono::steady_clock::now();
    while (!InputEnded()) {
      if (kind_ != "unjoined" && std::chrono::steady_clock::now() - looked > kBetweenLooks) {
        looked = std::chrono::steady_clock::now();
        Look();
      }
      for (int i = 0; i < 64 && (kind_ != "joined" || sent - read < kInFlight); ++i) {
        Request request = Next();
        request.id = ++id;
        if (!transport_->Send(0, Encode(request))) break;
        ++sent;
      }
      size_t server = 0;
      Message message;
      while (kind_ != "unread" && transport_->Receive(&server, &message)) ++read;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    std::printf("sent %llu\nread %llu\n", static_cast<unsigned long long>(sent),
                static_cast<unsigned long long>(read));
    return 0;
  }

 private:
  static constexpr auto kBetweenLooks = std::chrono::milliseconds(20);

  void Join() {
    const std::vector<Reply> replies =
        Must(honest_->client->CallAll(Membership(run_.Json(), 1).Hellos()).get());
    session_ = As<HelloReply>(replies[0]).session;
    honest_->client->SetSession(0, session_);
    Look();
  }
  /// Where the run is: sums are asked of its last state.
  void Look() {
    const std::vector<Reply> replies =
        Must(honest_->client->Call(0, {.body = StatusRequest{}}).get());
    state_ = As<StatusReply>(replies[0]).state.finished;
  }
  Request Next() {
    if (kind_ == "unjoined") return {.body = StatusRequest{}};
    Request request{.session = session_};
    for (const TensorSpec& tensor : run_.tensors) {
      if (kind_ == "unread" && tensor.kind == TensorKind::kDense) {
        request.body =
            PullRequest{.at = state_, .tensor = tensor.id, .row_count = tensor.total_rows()};
        request.payload = {Frame()};
        return request;
      }
      if (kind_ == "joined" && tensor.kind == TensorKind::kMemory) {
        const size_t tokens = static_cast<size_t>(run_.rules.tokens_per_micro_batch);
        const size_t pairs = static_cast<size_t>(tensor.tables * tensor.probes) * tokens;
        request.body = ForwardRequest{
            .at = state_, .tensor = tensor.id, .tokens = static_cast<uint32_t>(tokens)};
        request.payload = {Zeros(pairs * static_cast<size_t>(tensor.index_bytes())),
                           Zeros(pairs * sizeof(float))};
        return request;
      }
    }
    return request;
  }

  const std::string kind_;
  const RunDescription run_;
  std::unique_ptr<Connection> honest_;
  TransportContext context_;
  std::unique_ptr<ClientTransport> transport_;
  uint64_t session_ = 0;
  FinishedStep state_;
};

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  const std::string kind = argc == 5 ? argv[1] : "";
  if (kind != "unjoined" && kind != "joined" && kind != "unread") {
    std::fprintf(stderr, "usage: flood_peer unjoined|joined|unread CONFIG DATA ADDRESS\n");
    return 2;
  }
  const mf::Config config = mf::Must(mf::LoadConfig(argv[2], {}));
  const auto data = mf::Must(mf::TokenSource::Open(config, argv[3], ""));
  return mf::FloodPeer(kind, mf::DescribeRun(config, data->Digest()), argv[4]).Run();
}
