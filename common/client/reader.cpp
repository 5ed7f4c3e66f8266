#include "common/client/reader.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <thread>
#include <utility>

#include "common/base/logging.h"
#include "common/client/client.h"
#include "common/client/connection.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kBetweenLooks = std::chrono::milliseconds(5);
constexpr double kToldSeconds = 1;  // of waiting
constexpr double kStoppingDeadlineSeconds = 5;

/// The server does not know this observer any more, or begins.
bool IsToBeGreeted(Code code) { return code == Code::kNotJoined || code == Code::kUnavailable; }

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// That a server can be asked for, rising.
std::vector<FinishedStep> StatesOf(const RunState& state) {
  if (state.finished.epoch == 0) return {};
  if (state.readable.empty()) return {state.finished};
  std::vector<FinishedStep> states;
  for (const uint64_t step : state.readable) states.push_back({state.finished.epoch, step});
  std::sort(states.begin(), states.end());
  return states;
}

}  // namespace

Reader::Reader(std::unique_ptr<Connection> connection, double deadline_seconds)
    : connection_(std::move(connection)), deadline_seconds_(deadline_seconds) {}

Reader::~Reader() = default;

Result<std::unique_ptr<Reader>> Reader::Open(const Options& options) {
  MF_ASSIGN_OR_RETURN(auto connection,
                      Connect(options.servers, options.keys, options.deadline_seconds));
  std::unique_ptr<Reader> reader(new Reader(std::move(connection), options.deadline_seconds));
  MF_ASSIGN_OR_RETURN(Seen seen, reader->Greet());
  MF_ASSIGN_OR_RETURN(reader->run_, RunDescription::FromJson(seen.description));
  reader->description_ = std::move(seen.description);
  reader->at_ = seen.states.back();
  reader->tables_ = std::make_unique<TableClient>(*reader->connection_->client, reader->run_);
  return reader;
}

/// Servers end a step, or begin another run, one after the other, and a recovery takes them a
/// moment: what they say is waited for.
Result<Reader::Seen> Reader::Greet() {
  const auto begin = Clock::now();
  bool told = false;
  for (;;) {
    Result<Seen> seen = GreetOnce();
    const Code code = seen.status().code();
    const bool waits = code == Code::kUnavailable || code == Code::kBusy || code == Code::kWrongRun;
    if (seen.ok() || !waits) return seen;
    if (SecondsSince(begin) > deadline_seconds_) {
      return Status(code == Code::kWrongRun ? code : Code::kFailed, seen.status().message());
    }
    if (!told && SecondsSince(begin) > kToldSeconds) {
      spdlog::info("waits for the servers: {}", seen.status().message());
      told = true;
    }
    std::this_thread::sleep_for(kBetweenLooks);
  }
}

Result<Reader::Seen> Reader::GreetOnce() {
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
  Seen seen{.description = first.description, .states = StatesOf(first)};
  for (size_t server = 0; server < servers; ++server) {
    const HelloReply& hello = As<HelloReply>(replies[server]);
    client.SetSession(server, hello.session);
    if (hello.state.description != first.description) {
      return Status(Code::kWrongRun, "server " + std::to_string(server) +
                                         " has another training than server 0; name the servers "
                                         "of one cluster");
    }
    const std::vector<FinishedStep> here = StatesOf(hello.state);
    std::vector<FinishedStep> common;
    std::set_intersection(seen.states.begin(), seen.states.end(), here.begin(), here.end(),
                          std::back_inserter(common));
    seen.states = std::move(common);
  }
  if (!seen.states.empty()) return seen;
  std::string having;
  for (size_t server = 0; server < servers; ++server) {
    having += (server == 0 ? "server " : ", server ") + std::to_string(server) + " has ";
    const std::vector<FinishedStep> here = StatesOf(As<HelloReply>(replies[server]).state);
    if (here.empty()) having += "none";
    for (size_t i = 0; i < here.size(); ++i) {
      having += (i == 0 ? "" : " and ") + std::to_string(here[i].step);
    }
  }
  return Status(Code::kUnavailable,
                "there is no step that all servers have: " + having +
                    "; a cluster that is being recovered comes to one soon, and read-only servers "
                    "with the same --follow or --step do");
}

Result<std::vector<FinishedStep>> Reader::States() {
  MF_ASSIGN_OR_RETURN(Seen seen, Greet());
  if (seen.description == description_) return std::move(seen.states);
  return Status::Failed("another training has begun on the servers; start again");
}

Result<bool> Reader::Refresh() {
  MF_ASSIGN_OR_RETURN(const std::vector<FinishedStep> states, States());
  return std::exchange(at_, states.back()) != at_;
}

Status Reader::Read(const std::function<Status()>& read) {
  const auto begin = Clock::now();
  for (;;) {
    const Status status = read();
    if (!IsToBeGreeted(status.code())) return status;
    // It was started again, or has forgotten this observer among many.
    MF_ASSIGN_OR_RETURN(const std::vector<FinishedStep> states, States());
    if (!std::binary_search(states.begin(), states.end(), at_)) {
      return {Code::kStale, "the run is at step " + std::to_string(states.back().step) + " now"};
    }
    if (SecondsSince(begin) > deadline_seconds_) return Status::Failed(status.message());
  }
}

Status Reader::AtOneState(const std::function<Status()>& read) {
  const auto begin = Clock::now();
  for (;;) {
    const Status status = Read(read);
    if (!HasGone(status) || SecondsSince(begin) > deadline_seconds_) return status;
    MF_RETURN_IF_ERROR(Refresh().status());
  }
}

bool Reader::HasGone(const Status& status) {
  return status.code() == Code::kStale || status.code() == Code::kWrongEpoch;
}

void Reader::Stop() { connection_->client->LimitDeadlines(kStoppingDeadlineSeconds); }

}  // namespace mf
