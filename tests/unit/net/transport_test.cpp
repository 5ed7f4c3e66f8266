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

// Goal: IPv6 works, beside IPv4 in one client.
TEST(Transport, Ipv6) {
  TransportContext context;
  auto six = BindZmq(context, "tcp://[::1]:0");
  if (six.status().code() == Code::kInvalid) GTEST_SKIP() << six.status().message();
  ASSERT_TRUE(six.ok()) << six.status().message();
  EXPECT_TRUE(six.value()->address().starts_with("tcp://[::1]:")) << six.value()->address();
  const auto four = Bind(context, "tcp://127.0.0.1:0");
  const std::string by_name = "tcp://localhost" + four->address().substr(15);
  const auto client = Connect(context, {six.value()->address(), by_name});
  ServerTransport* const servers[] = {six.value().get(), four.get()};
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(client->Send(i, {Bytes(8, i)}));
    std::string peer;
    Message received;
    ASSERT_TRUE(Await(*servers[i], &peer, &received));
    ASSERT_TRUE(servers[i]->Send(peer, received));
    size_t from = 7;
    ASSERT_TRUE(Await(*client, &from, &received));
    EXPECT_EQ(from, i);
  }
}

// Goal: an address that cannot be used is an error that names it.
TEST(Transport, BadAddressesAreErrors) {
  TransportContext context;
  for (const char* address : {"", "nonsense", "tcp://"}) {
    EXPECT_FALSE(BindZmq(context, address).ok()) << address;
  }
  const auto first = Bind(context, "tcp://127.0.0.1:0");
  const auto second = BindZmq(context, first->address());
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find(first->address()), std::string::npos);
  for (const char* address : {"nonsense", "tcp://nonsense", "tcp://::1:7", "tcp://a:0"}) {
    EXPECT_FALSE(ConnectZmq(context, {address}).ok()) << address;
  }
  const auto elsewhere = BindZmq(context, "tcp://192.0.2.1:7");
  EXPECT_EQ(elsewhere.status().code(), Code::kInvalid) << "not an address of this machine";
}

}  // namespace
}  // namespace mf
