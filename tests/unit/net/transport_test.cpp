// Goal: messages arrive as they were sent, over inproc and tcp, many and large ones; nothing that
// arrives can hurt (DESIGN 5).
#include "common/net/transport.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <thread>

#include "common/net/messages.h"
#include "tests/support/frames.h"
#include "tests/support/scripted_server.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;

Request FullRequest() {
  Request r;
  r.id = 0xFFFFFFFFFFFFFFFF;
  r.session = 2;
  r.op = Op::kStepEnded;
  r.epoch = 1ull << 63 | 3;
  r.step = 4;
  r.tensor = 0xFFFFFFFF;
  r.micro_batch = 6;
  r.tokens = 7;
  r.training = true;
  r.first_row = 1ull << 40;
  r.row_count = 9;
  r.lease = 10;
  r.lr = 1e-300;
  r.scale = -0.0;
  r.value = std::numeric_limits<double>::infinity();
  r.applied = true;
  r.protocol = 13;
  r.shard = 14;
  r.shards = 15;
  r.text = "text with \"quotes\" and \xC3\xA9";
  r.run_id = "run";
  r.payload = {Bytes(3, 1), Frame(), Bytes(1000, 2)};
  return r;
}

Reply FullReply() {
  Reply r;
  r.id = 1;
  r.code = Code::kUnavailable;
  r.message = "message";
  r.incarnation = 0xFFFFFFFFFFFFFFFE;
  r.session = 4;
  r.epoch = 5;
  r.step = 6;
  r.applied = true;
  r.text = "text";
  r.work = Work::kFailed;
  r.micro_batch = 7;
  r.lease = 8;
  r.lease_seconds = 9.5;
  r.lr = 3e-3;
  r.clip = 1.25;
  r.records = {{1, 2.5, 3.5, 4.5, 5.5, true, false}, {2, 3, 4, 5, 6, false, true}};
  r.payload = {Bytes(17, 3)};
  return r;
}

// Goal: every field of a request comes back, and the payload is shared, not copied.
TEST(Codec, RequestsRoundTrip) {
  const Request r = FullRequest();
  const Frames message = Encode(r);
  ASSERT_EQ(message.size(), 4u);
  EXPECT_EQ(message[3].data(), r.payload[2].data());
  Result<Request> decoded = DecodeRequest(message);
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(decoded->id, r.id);
  EXPECT_EQ(decoded->session, r.session);
  EXPECT_EQ(decoded->op, r.op);
  EXPECT_EQ(decoded->epoch, r.epoch);
  EXPECT_EQ(decoded->step, r.step);
  EXPECT_EQ(decoded->tensor, r.tensor);
  EXPECT_EQ(decoded->micro_batch, r.micro_batch);
  EXPECT_EQ(decoded->tokens, r.tokens);
  EXPECT_EQ(decoded->training, r.training);
  EXPECT_EQ(decoded->first_row, r.first_row);
  EXPECT_EQ(decoded->row_count, r.row_count);
  EXPECT_EQ(decoded->lease, r.lease);
  EXPECT_EQ(decoded->lr, r.lr);
  EXPECT_TRUE(std::signbit(decoded->scale));
  EXPECT_EQ(decoded->value, r.value);
  EXPECT_EQ(decoded->applied, r.applied);
  EXPECT_EQ(decoded->protocol, r.protocol);
  EXPECT_EQ(decoded->shard, r.shard);
  EXPECT_EQ(decoded->shards, r.shards);
  EXPECT_EQ(decoded->text, r.text);
  EXPECT_EQ(decoded->run_id, r.run_id);
  ASSERT_EQ(decoded->payload.size(), 3u);
  EXPECT_EQ(decoded->payload[2].data(), r.payload[2].data());
}

// Goal: every field of a reply comes back.
TEST(Codec, RepliesRoundTrip) {
  const Reply r = FullReply();
  Result<Reply> decoded = DecodeReply(Encode(r));
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(decoded->id, r.id);
  EXPECT_EQ(decoded->code, r.code);
  EXPECT_EQ(decoded->message, r.message);
  EXPECT_EQ(decoded->incarnation, r.incarnation);
  EXPECT_EQ(decoded->session, r.session);
  EXPECT_EQ(decoded->epoch, r.epoch);
  EXPECT_EQ(decoded->step, r.step);
  EXPECT_EQ(decoded->applied, r.applied);
  EXPECT_EQ(decoded->text, r.text);
  EXPECT_EQ(decoded->work, r.work);
  EXPECT_EQ(decoded->micro_batch, r.micro_batch);
  EXPECT_EQ(decoded->lease, r.lease);
  EXPECT_EQ(decoded->lease_seconds, r.lease_seconds);
  EXPECT_EQ(decoded->lr, r.lr);
  EXPECT_EQ(decoded->clip, r.clip);
  ASSERT_EQ(decoded->records.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(decoded->records[i].step, r.records[i].step);
    EXPECT_EQ(decoded->records[i].loss, r.records[i].loss);
    EXPECT_EQ(decoded->records[i].lr, r.records[i].lr);
    EXPECT_EQ(decoded->records[i].grad_norm, r.records[i].grad_norm);
    EXPECT_EQ(decoded->records[i].val_loss, r.records[i].val_loss);
    EXPECT_EQ(decoded->records[i].has_val_loss, r.records[i].has_val_loss);
    EXPECT_EQ(decoded->records[i].dropped, r.records[i].dropped);
  }
  ASSERT_EQ(decoded->payload.size(), 1u);
  EXPECT_TRUE(Same(decoded->payload[0], r.payload[0]));
}

// Goal: every operation has its name, and every one is understood.
TEST(Codec, KnowsEveryOperation) {
  std::set<std::string> names;
  for (int op = 0; op < kOpCount; ++op) {
    Request request;
    request.op = static_cast<Op>(op);
    names.insert(OpName(request.op));
    Result<Request> decoded = DecodeRequest(Encode(request));
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(decoded->op, request.op);
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kOpCount));
  Request unknown;
  unknown.op = static_cast<Op>(kOpCount);
  EXPECT_EQ(DecodeRequest(Encode(unknown)).status().code(), Code::kInvalid);
}

// Goal: headers that were cut off, changed or made up give an error or some message, never a crash.
TEST(Codec, SurvivesAnyHeader) {
  EXPECT_FALSE(DecodeRequest({}).ok());
  EXPECT_FALSE(DecodeReply({Frame()}).ok());
  const Frame headers[] = {Encode(FullRequest())[0], Encode(FullReply())[0]};
  for (const Frame& header : headers) {
    for (size_t size = 0; size < header.size(); ++size) {
      EXPECT_FALSE(DecodeRequest({Frame(header.owner(), header.data(), size)}).ok()) << size;
      EXPECT_FALSE(DecodeReply({Frame(header.owner(), header.data(), size)}).ok()) << size;
    }
  }
  std::mt19937_64 random(1);
  size_t refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    Frame frame;
    if (i % 2 == 0) {
      frame = Bytes(8 * (1 + random() % 40), random());
    } else {
      const Frame& header = headers[random() % 2];
      Buffer copy(header.size());
      std::memcpy(copy.data(), header.data(), header.size());
      for (uint64_t changes = 1 + random() % 6; changes > 0; --changes) {
        // The first words hold the segment table and the pointers: there it hurts most.
        const size_t at = random() % (random() % 2 == 0 ? 24 : copy.size());
        copy.data()[at] = static_cast<std::byte>(random());
      }
      frame = copy;
    }
    const Result<Request> request = DecodeRequest({frame});
    const Result<Reply> reply = DecodeReply({frame});
    refused += !request.ok() + !reply.ok();
    EXPECT_TRUE(!request.ok() || static_cast<int>(request.value().op) < kOpCount);
  }
  EXPECT_GT(refused, 10'000u);
  EXPECT_FALSE(DecodeRequest({Bytes((8 << 20) + 8, 3)}).ok());
}

/// Receives by the deadline of a slow machine.
bool Await(ServerTransport& transport, std::string* peer, Message* message) {
  return transport.Receive(20'000, peer, message);
}
bool Await(ClientTransport& transport, size_t* server, Message* message) {
  const auto end = Clock::now() + std::chrono::seconds(20);
  while (Clock::now() < end) {
    if (transport.Receive(server, message)) return true;
    transport.Wait(200);
  }
  return false;
}

class TransportTest : public ::testing::TestWithParam<const char*> {};

// Goal: frames of all sizes arrive whole, both ways; over inproc a large one is the sender's
// memory.
TEST_P(TransportTest, FramesArriveWhole) {
  TransportContext context;
  const auto server = Bind(context, GetParam());
  EXPECT_FALSE(server->address().ends_with(":0")) << "port 0 is replaced by the real one";
  const auto client = Connect(context, {server->address()});
  for (const size_t large :
       {size_t{0}, size_t{255}, size_t{257}, size_t{100'000}, size_t{64} << 20}) {
    const Message sent = {Bytes(8, 1), Frame(), Bytes(large, large), Bytes(13, 2)};
    ASSERT_TRUE(client->Send(0, sent));
    std::string peer;
    Message received;
    ASSERT_TRUE(Await(*server, &peer, &received));
    ASSERT_EQ(received.size(), sent.size());
    for (size_t i = 0; i < sent.size(); ++i) EXPECT_TRUE(Same(received[i], sent[i])) << i;
    if (server->address().starts_with("inproc") && large > 256) {
      EXPECT_EQ(received[2].data(), sent[2].data());
    }
    ASSERT_TRUE(server->Send(peer, received));
    size_t from = 7;
    Message back;
    ASSERT_TRUE(Await(*client, &from, &back));
    EXPECT_EQ(from, 0u);
    ASSERT_EQ(back.size(), sent.size());
    for (size_t i = 0; i < sent.size(); ++i) EXPECT_TRUE(Same(back[i], sent[i])) << i;
  }
}

// Goal: thousands of messages in flight arrive, all of them and in order.
TEST_P(TransportTest, ManyInFlightArriveInOrder) {
  constexpr uint64_t kMessages = 20'000;
  TransportContext context;
  const auto server = Bind(context, GetParam());
  std::thread echo([&] {
    std::string peer;
    Message message;
    for (uint64_t i = 0; i < kMessages; ++i) {
      if (!Await(*server, &peer, &message)) return;
      EXPECT_TRUE(server->Send(peer, message));
    }
  });
  const auto client = Connect(context, {server->address()});
  for (uint64_t i = 0; i < kMessages; ++i) {
    Buffer number(sizeof i);
    std::memcpy(number.data(), &i, sizeof i);
    ASSERT_TRUE(client->Send(0, {number, Bytes(300, i)}));
  }
  size_t from = 0;
  Message message;
  for (uint64_t i = 0; i < kMessages; ++i) {
    ASSERT_TRUE(Await(*client, &from, &message)) << i;
    ASSERT_EQ(LoadUnaligned<uint64_t>(message[0].data(), 0), i);
  }
  echo.join();
}

// Goal: a peer that is gone is told from one that is there; waking ends a wait, before and during
// it.
TEST_P(TransportTest, UnknownPeersAndWaking) {
  TransportContext context;
  const auto server = Bind(context, GetParam());
  EXPECT_FALSE(server->Send("nobody", {Bytes(8, 1)}));
  std::string peer;
  Message message;
  EXPECT_FALSE(server->Receive(0, &peer, &message));
  const auto start = Clock::now();
  server->Wake();
  EXPECT_FALSE(server->Receive(30'000, &peer, &message));
  std::thread waker([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    server->Wake();
  });
  EXPECT_FALSE(server->Receive(30'000, &peer, &message));
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(25));
  waker.join();
}

INSTANTIATE_TEST_SUITE_P(Addresses, TransportTest,
                         ::testing::Values("inproc://one", "tcp://127.0.0.1:0"));

// Goal: an address that can not be used is an error that names it.
TEST(Transport, BadAddressesAreErrors) {
  TransportContext context;
  for (const char* address : {"", "nonsense", "tcp://"}) {
    EXPECT_FALSE(BindZmq(context, address).ok()) << address;
  }
  const auto first = Bind(context, "tcp://127.0.0.1:0");
  const auto second = BindZmq(context, first->address());
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find(first->address()), std::string::npos);
  EXPECT_FALSE(ConnectZmq(context, {"nonsense"}).ok());
}

}  // namespace
}  // namespace mf
