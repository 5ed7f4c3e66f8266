// Goal: the client joins the answers of several servers and names the one that is silent; however
// many threads call and wait, whoever leads, and whatever order answers come in, each gets its own
// and none waits for ever (client.h).
#include "common/client/client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/net/messages.h"
#include "tests/support/frames.h"
#include "tests/support/scripted_server.h"

namespace mf {
namespace {

constexpr double kNever = 1000;                // seconds: what waits that long was forgotten
constexpr std::chrono::seconds kPatience{30};  // of the test itself

/// Requests whose answers can be told apart (ReplyTo).
std::vector<Request> Requests(size_t servers, uint32_t number = 0) {
  return std::vector<Request>(servers, {.body = BucketsRequest{number}});
}

// Goal: calls complete in whatever order their servers answer; replies stand in server order,
// sessions are those of the server; repeated, foreign and garbled replies are ignored.
TEST(ClientTest, JoinsAnswersInAnyOrder) {
  TransportContext context;
  // Answers in pairs, the later one first, each of them twice, with garbage and foreign ids
  // between.
  std::vector<std::vector<std::pair<std::string, Request>>> held(3);
  std::vector<std::unique_ptr<ScriptedServer>> servers;
  std::vector<std::string> addresses;
  for (uint64_t s = 0; s < 3; ++s) {
    servers.push_back(std::make_unique<ScriptedServer>(
        context, s == 1 ? "tcp://127.0.0.1:0" : "inproc://joined" + std::to_string(s),
        [&, s](ServerTransport& transport, const std::string& peer, const Request& request) {
          held[s].emplace_back(peer, request);
          EXPECT_EQ(request.session, 70 + s);
          if (held[s].size() < 2) return;
          for (auto it = held[s].rbegin(); it != held[s].rend(); ++it) {
            transport.Send(it->first, {Bytes(24, s)});
            Reply reply = ReplyTo(it->second, s + 1);
            transport.Send(it->first, Encode(reply));
            reply.body = BucketsReply{999};
            transport.Send(it->first, Encode(reply));
            reply.id += 1000;
            transport.Send(it->first, Encode(reply));
          }
          held[s].clear();
        }));
    addresses.push_back(servers.back()->address());
  }
  Client client(Connect(context, addresses), addresses, {.deadline_seconds = 30});
  for (size_t s = 0; s < 3; ++s) client.SetSession(s, 70 + s);
  std::vector<Client::Answer> calls;
  for (uint32_t i = 0; i < 100; ++i) calls.push_back(client.CallAll(Requests(3, i)));
  for (uint32_t i = 0; i < 100; ++i) {
    Client::Outcome outcome = calls[i].get();
    ASSERT_TRUE(outcome.ok()) << outcome.status().message();
    ASSERT_EQ(outcome->size(), 3u);
    for (size_t s = 0; s < 3; ++s) {
      EXPECT_EQ((*outcome)[s].incarnation, s + 1);
      EXPECT_EQ(As<BucketsReply>((*outcome)[s]).step, i);
    }
  }
  EXPECT_EQ(client.traffic(Op::kBuckets).calls.load(), 100u);
  EXPECT_GT(client.traffic(Op::kBuckets).received_bytes.load(), 0u);
}

// Goal: a call to one server holds one reply; an error code carries the server's number and keeps
// its kind; the other servers' answers do not hide it.
TEST(ClientTest, ErrorsCarryTheServersNumber) {
  TransportContext context;
  std::vector<std::unique_ptr<ScriptedServer>> servers;
  std::vector<std::string> addresses;
  for (size_t s = 0; s < 3; ++s) {
    addresses.push_back("inproc://error" + std::to_string(s));
    servers.push_back(std::make_unique<ScriptedServer>(
        context, addresses.back(),
        [s](ServerTransport& transport, const std::string& peer, const Request& request) {
          Reply reply = ReplyTo(request, s);
          if (s == 2) {
            reply.code = Code::kStale;
            reply.message = "too late";
          }
          transport.Send(peer, Encode(reply));
        }));
  }
  Client client(Connect(context, addresses), addresses, {.deadline_seconds = 30});
  Client::Outcome one = client.Call(1, Request()).get();
  ASSERT_TRUE(one.ok());
  ASSERT_EQ(one->size(), 1u);
  EXPECT_EQ((*one)[0].incarnation, 1u);
  const Client::Outcome all = client.CallAll(Requests(3)).get();
  EXPECT_EQ(all.status().code(), Code::kStale);
  EXPECT_NE(all.status().message().find("server 2"), std::string::npos) << all.status().message();
  EXPECT_NE(all.status().message().find("too late"), std::string::npos) << all.status().message();
  EXPECT_EQ(client.Call(2, Request()).get().status().code(), Code::kStale);
}

// Goal: an answer to something else than was asked is an error that names the server, not a crash.
TEST(ClientTest, AnswersToAnotherOperationAreErrors) {
  TransportContext context;
  ScriptedServer server(
      context, "inproc://other-operation",
      [](ServerTransport& transport, const std::string& peer, const Request& request) {
        Reply reply = ReplyTo(request);
        reply.body = LeaseReply{};
        transport.Send(peer, Encode(reply));
      });
  Client client(Connect(context, {server.address()}), {server.address()}, {.deadline_seconds = 30});
  const Client::Outcome outcome = client.Call(0, {.body = HelloRequest{}}).get();
  EXPECT_EQ(outcome.status().code(), Code::kFailed);
  EXPECT_NE(outcome.status().message().find("server 0 (inproc://other-operation): hello"),
            std::string::npos)
      << outcome.status().message();
}

// Goal: at the deadline the silent server is named, by number and address, and no other; later
// calls to the others succeed; open calls fail when the client is closed.
TEST(ClientTest, SilentServersAreNamed) {
  TransportContext context;
  const auto answer = [](ServerTransport& transport, const std::string& peer,
                         const Request& request) {
    transport.Send(peer, Encode(ReplyTo(request)));
  };
  ScriptedServer talks(context, "inproc://talks", answer);
  ScriptedServer silent(context, "inproc://silent", [](auto&, auto&, auto&) {});
  const std::vector<std::string> addresses = {talks.address(), silent.address()};
  Client::Answer open;
  {
    Client client(Connect(context, addresses), addresses, {.deadline_seconds = 0.3});
    const Client::Outcome outcome = client.CallAll(Requests(2)).get();
    EXPECT_EQ(outcome.status().code(), Code::kFailed);
    const std::string& message = outcome.status().message();
    EXPECT_NE(message.find("1 (inproc://silent)"), std::string::npos) << message;
    EXPECT_EQ(message.find("inproc://talks"), std::string::npos) << message;
    EXPECT_TRUE(client.Call(0, Request()).get().ok());
    open = client.Call(1, Request());
  }
  EXPECT_EQ(open.get().status().code(), Code::kFailed);
}

class ManyThreads : public ::testing::TestWithParam<const char*> {};

// Goal: many threads call at once and have several calls open, which they wait for in any order and
// sometimes not at all; answers come out of order. Each gets its own, and none only because it was
// asked for again.
TEST_P(ManyThreads, EachGetsItsOwn) {
  constexpr uint64_t kThreads = 6, kRounds = 300, kOpen = 4;
  TransportContext context;
  std::vector<std::pair<std::string, Request>> held;
  std::mt19937_64 server_random(1);
  ScriptedServer server(
      context, GetParam(),
      [&](ServerTransport& transport, const std::string& peer, const Request& request) {
        held.emplace_back(peer, request);
        // Some of those held, or all, so that a thread alone may wait for all it has asked for.
        const bool all = request.op() == Op::kHello;
        std::shuffle(held.begin(), held.end(), server_random);
        for (size_t keep = all ? 0 : server_random() % (held.size() + 1); held.size() > keep;) {
          Reply reply = ReplyTo(held.back().second);
          reply.payload = held.back().second.payload;
          transport.Send(held.back().first, Encode(reply));
          held.pop_back();
        }
      });
  Client client(Connect(context, {server.address()}), {server.address()},
                {.deadline_seconds = kNever, .resend_seconds = kNever});
  std::atomic<uint64_t> finished{0};
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      for (uint64_t round = 0; round < kRounds; ++round) {
        std::vector<std::pair<Frame, Client::Answer>> open;
        for (uint64_t i = 0; i < kOpen; ++i) {
          Request request;
          request.payload = {Bytes(random() % 1000, (thread * kRounds + round) * kOpen + i)};
          open.emplace_back(request.payload[0], client.Call(0, request));
        }
        std::shuffle(open.begin(), open.end(), random);
        for (uint64_t i = random() % kOpen; i < kOpen; ++i) {
          Client::Outcome outcome = open[i].second.get();
          ASSERT_TRUE(outcome.ok()) << outcome.status().message();
          ASSERT_TRUE(Same((*outcome)[0].payload[0], open[i].first));
        }
      }
      finished.fetch_add(1);
    });
  }
  const Request release{.body = HelloRequest{}};
  while (finished.load() < kThreads) ASSERT_TRUE(client.Call(0, release).get().ok());
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Addresses, ManyThreads,
                         ::testing::Values("inproc://many", "tcp://127.0.0.1:0"));

/// A transport in the hands of the test: what it puts in can be received at once, but a wait ends
/// by a Wake() only, as if another thread's send had taken away the news.
class FakeTransport final : public ClientTransport {
 public:
  bool Receive(size_t* server, Message* message) override {
    MutexLock lock(mutex_);
    if (inbox_.empty()) return false;
    *server = 0;
    *message = std::move(inbox_.front());
    inbox_.pop_front();
    received_by_ = std::this_thread::get_id();
    changed_.NotifyAll();
    return true;
  }
  bool Send(size_t, const Message& message) override {
    MutexLock lock(mutex_);
    sent_.push_back(DecodeRequest(message).value());
    changed_.NotifyAll();
    return true;
  }
  void Wait(int timeout_ms) override {
    MutexLock lock(mutex_);
    EXPECT_FALSE(waiting_) << "one thread at a time";
    waiting_ = true;
    changed_.NotifyAll();
    while (timeout_ms != 0 && !woken_) changed_.Wait(mutex_);
    woken_ = waiting_ = false;
  }
  void Wake() override {
    MutexLock lock(mutex_);
    woken_ = true;
    changed_.NotifyAll();
  }
  uint64_t Connections(size_t) override { return 1; }

  // For the test.

  void PutIn(const Request& request) {
    MutexLock lock(mutex_);
    inbox_.push_back(Encode(ReplyTo(request)));
  }
  /// The `count`-th request that was sent.
  Request Sent(size_t count) {
    Request request;
    Until([&]() MF_REQUIRES(mutex_) { return sent_.size() >= count; },
          [&]() MF_REQUIRES(mutex_) { request = sent_[count - 1]; });
    return request;
  }
  /// The thread that has taken in the last message.
  std::thread::id received_by() {
    MutexLock lock(mutex_);
    return received_by_;
  }
  void UntilSomebodyWaits() {
    Until([this]() MF_REQUIRES(mutex_) { return waiting_ && !woken_; }, [] {});
  }
  void UntilAllIsTakenIn() {
    Until([this]() MF_REQUIRES(mutex_) { return inbox_.empty(); }, [] {});
  }

 private:
  template <class Condition, class Then>
  void Until(const Condition& condition, const Then& then) {
    MutexLock lock(mutex_);
    // A test that fails here would hang when its threads are joined.
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) MF_CHECK(changed_.WaitUntil(mutex_, end));
    then();
  }

  Mutex mutex_;
  ConditionVariable changed_;
  std::deque<Message> inbox_ MF_GUARDED_BY(mutex_);
  std::vector<Request> sent_ MF_GUARDED_BY(mutex_);
  std::thread::id received_by_ MF_GUARDED_BY(mutex_);
  bool waiting_ MF_GUARDED_BY(mutex_) = false;
  bool woken_ MF_GUARDED_BY(mutex_) = false;
};

class LeaderTest : public ::testing::Test {
 protected:
  explicit LeaderTest(double deadline_seconds = kNever) {
    auto transport = std::make_unique<FakeTransport>();
    transport_ = transport.get();
    client_ = std::make_unique<Client>(
        std::move(transport), std::vector<std::string>{"fake"},
        Client::Options{.deadline_seconds = deadline_seconds, .resend_seconds = kNever});
  }
  /// A thread that calls and waits: the `count`-th call. Returns when the call is sent.
  std::future<Client::Outcome> CallAndWait(size_t count) {
    auto outcome = std::async(std::launch::async, [this] { return client_->Call(0, {}).get(); });
    requests_.push_back(transport_->Sent(count));
    return outcome;
  }
  static void ExpectDone(std::future<Client::Outcome>& waiting, Code code = Code::kOk) {
    MF_CHECK(waiting.wait_for(kPatience) == std::future_status::ready);
    EXPECT_EQ(waiting.get().status().code(), code);
  }

  FakeTransport* transport_;
  std::unique_ptr<Client> client_;
  std::vector<Request> requests_;
};

// Goal: the news of a reply that a send takes away reach the leader all the same, and by the
// sender: the client's thread, which comes by every few milliseconds, would be late.
TEST_F(LeaderTest, WhoSendsTakesInForTheLeader) {
  constexpr size_t kRounds = 50;
  size_t by_sender = 0;
  for (size_t round = 0; round < kRounds; ++round) {
    auto leader = CallAndWait(2 * round + 1);
    transport_->UntilSomebodyWaits();
    transport_->PutIn(requests_.back());
    Client::Answer own = client_->Call(0, {});
    ExpectDone(leader);
    by_sender += transport_->received_by() == std::this_thread::get_id();
    transport_->PutIn(transport_->Sent(2 * round + 2));
    EXPECT_TRUE(own.get().ok());
  }
  EXPECT_GT(by_sender, kRounds / 2);
}

// Goal: a leader whose answer comes first hands over, whatever order the others' come in, and also
// where the next one's answer is there already.
TEST_F(LeaderTest, LeadersHandOver) {
  for (const auto& order : {std::vector<size_t>{0, 1, 2, 3}, {0, 3, 2, 1}, {2, 0, 1, 3}}) {
    SCOPED_TRACE("order " + ::testing::PrintToString(order));
    const size_t before = requests_.size();
    std::vector<std::future<Client::Outcome>> waiting;
    for (size_t i = 1; i <= 4; ++i) {
      waiting.push_back(CallAndWait(before + i));
      transport_->UntilSomebodyWaits();
    }
    for (const size_t i : order) {
      transport_->UntilSomebodyWaits();
      transport_->PutIn(requests_[before + i]);
      transport_->Wake();
      ExpectDone(waiting[i]);
    }
  }
  std::vector<std::future<Client::Outcome>> waiting;
  const size_t before = requests_.size();
  for (size_t i = 1; i <= 4; ++i) waiting.push_back(CallAndWait(before + i));
  transport_->UntilSomebodyWaits();
  for (size_t i = 0; i < 3; ++i) transport_->PutIn(requests_[before + i]);
  transport_->Wake();
  for (size_t i = 0; i < 3; ++i) ExpectDone(waiting[i]);
  transport_->UntilSomebodyWaits();
  transport_->PutIn(requests_[before + 3]);
  transport_->Wake();
  ExpectDone(waiting[3]);
}

// Goal: calls are done where nobody waits for them, those whose answers were dropped and the
// others.
TEST_F(LeaderTest, WhatNobodyWaitsForIsTakenIn) {
  client_->Call(0, {});
  Client::Answer kept = client_->Call(0, {});
  for (size_t count : {1, 2}) transport_->PutIn(transport_->Sent(count));
  transport_->UntilAllIsTakenIn();
  client_.reset();
  EXPECT_TRUE(kept.get().ok()) << "it was answered before the client was closed";
}

// Goal: closing the client fails what is open, whoever waits for it and whoever does later.
TEST_F(LeaderTest, ClosingFailsOpenCalls) {
  std::vector<std::future<Client::Outcome>> waiting;
  for (size_t i = 1; i <= 4; ++i) waiting.push_back(CallAndWait(i));
  Client::Answer later = client_->Call(0, {});
  client_->Call(0, {});
  transport_->UntilSomebodyWaits();
  client_.reset();
  for (auto& one : waiting) ExpectDone(one, Code::kFailed);
  EXPECT_EQ(later.get().status().code(), Code::kFailed);
}

// Goal: the same when threads begin to wait at that moment.
TEST(ClientTest, ClosingWhileThreadsBeginToWait) {
  for (int round = 0; round < 200; ++round) {
    auto client = std::make_unique<Client>(std::make_unique<FakeTransport>(),
                                           std::vector<std::string>{"fake"}, Client::Options{});
    std::vector<Client::Answer> answers;
    for (int i = 0; i < 3; ++i) answers.push_back(client->Call(0, {}));
    std::vector<std::thread> threads;
    for (Client::Answer& answer : answers) {
      threads.emplace_back([&] { EXPECT_EQ(answer.get().status().code(), Code::kFailed); });
    }
    client.reset();
    for (std::thread& thread : threads) thread.join();
  }
}

class DeadlineTest : public LeaderTest {
 protected:
  DeadlineTest() : LeaderTest(0.2) {}
};

// Goal: deadlines end the wait of who leads and of who follows.
TEST_F(DeadlineTest, EndsEveryWait) {
  std::vector<std::future<Client::Outcome>> waiting;
  for (size_t i = 1; i <= 3; ++i) waiting.push_back(CallAndWait(i));
  for (auto& one : waiting) ExpectDone(one, Code::kFailed);
}

}  // namespace
}  // namespace mf
