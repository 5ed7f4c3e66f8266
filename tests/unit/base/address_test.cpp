// Goal: every flag reads the same forms of addresses, what is none is named, and an address is
// loopback if and only if it is one.
#include "common/base/address.h"

#include <gtest/gtest.h>

#include <string>

namespace mf {
namespace {

constexpr auto kListen = AddressUse::kListen, kConnect = AddressUse::kConnect;

TEST(Address, Forms) {
  for (const char* text : {"10.0.0.1:7000", "[::1]:7000", "[fe80::1%eth0]:65535", "pserver-0:1",
                           "a.b_c.example:7000", "[::ffff:127.0.0.1]:80"}) {
    const auto address = ParseHostPort("--x", text, kConnect);
    ASSERT_TRUE(address.ok()) << address.status().message();
    EXPECT_EQ(address.value().HostPort(), text);
    const auto tcp = ParseTcp("--x", "tcp://" + std::string(text), kConnect);
    ASSERT_TRUE(tcp.ok());
    EXPECT_EQ(tcp.value().Tcp(), "tcp://" + std::string(text));
  }
  const auto six = ParseTcp("--x", "tcp://[::1]:7023", kListen);
  ASSERT_TRUE(six.ok());
  EXPECT_EQ(six.value().host, "::1");
  EXPECT_EQ(six.value().port, 7023);
  EXPECT_TRUE(ParseTcp("--x", "tcp://*:0", kListen).ok());
  EXPECT_FALSE(ParseTcp("--x", "tcp://*:1", kConnect).ok());
  EXPECT_FALSE(ParseTcp("--x", "tcp://a:0", kConnect).ok());
}

TEST(Address, WhatIsNone) {
  for (const char* text : {"",           ":",        ":1",       "host",
                           "host:",      "host:x",   "host:+1",  "host:1x",
                           "host:65536", "host:-1",  "ho st:1",  "host: 1",
                           "host:1\n",   "::1:7000", "[::1]",    "[::1]:",
                           "[::1:7",     "[]:7",     "[host]:7", "[10.0.0.1]:7",
                           "ho/st:1",    "host:1/x", "a,b:1",    "host:99999999999999999999"}) {
    for (const AddressUse use : {kListen, kConnect}) {
      const auto address = ParseHostPort("--flag", text, use);
      ASSERT_FALSE(address.ok()) << text;
      EXPECT_EQ(address.status().code(), Code::kInvalid);
      EXPECT_TRUE(address.status().message().starts_with("--flag " + std::string(text) + ": "))
          << address.status().message();
    }
    EXPECT_FALSE(ParseTcp("--flag", "tcp://" + std::string(text), kListen).ok()) << text;
  }
  for (const char* text : {"host:1", "udp://host:1", "tcp:/host:1", "TCP://host:1"})
    EXPECT_FALSE(ParseTcp("--flag", text, kListen).ok()) << text;
}

TEST(Address, ListsOfServers) {
  const auto servers = ParseServers("--pservers", {"tcp://a:1,tcp://[::1]:2", "tcp://a:3"});
  ASSERT_TRUE(servers.ok()) << servers.status().message();
  EXPECT_EQ(servers.value(), (std::vector<std::string>{"tcp://a:1", "tcp://[::1]:2", "tcp://a:3"}));
  const std::pair<const char*, const char*> wrong[] = {
      {"", "server 0 is empty"},
      {",", "server 0 is empty"},
      {"tcp://a:1,", "server 1 is"},
      {"tcp://a:1,,tcp://b:1", "server 1 is empty"},
      {"tcp://a:1,tcp://A:1", "twice"},
      {"tcp://a:1, tcp://b:1", "space"},
      {"tcp://a:1;tcp://b:1", "--pservers"}};
  for (const auto& [list, words] : wrong) {
    const auto parsed = ParseServers("--pservers", {list});
    ASSERT_FALSE(parsed.ok()) << list;
    EXPECT_NE(parsed.status().message().find(words), std::string::npos)
        << parsed.status().message();
  }
  EXPECT_FALSE(ParseServers("--pservers", {"tcp://a:1", "tcp://a:1"}).ok());
}

TEST(Address, ResolvedToNumbers) {
  const auto resolved = [](const std::string& host) {
    const auto address = ResolveToListen("--x", {.host = host, .port = 7});
    return address.ok() ? address.value().HostPort() : address.status().message();
  };
  EXPECT_EQ(resolved("*"), "0.0.0.0:7");
  EXPECT_EQ(resolved("0.0.0.0"), "0.0.0.0:7");
  EXPECT_EQ(resolved("::"), "[::]:7");
  EXPECT_EQ(resolved("10.1.2.3"), "10.1.2.3:7");
  EXPECT_EQ(resolved("::ffff:127.0.0.1"), "127.0.0.1:7");
  EXPECT_EQ(resolved("localhost"), "127.0.0.1:7");
  EXPECT_EQ(resolved("lo"), "127.0.0.1:7") << "an interface";
  EXPECT_NE(resolved("no-such-host.invalid").find("give an address of this machine"),
            std::string::npos);
}

TEST(Address, Loopback) {
  for (const char* host : {"127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"})
    EXPECT_TRUE(IsLoopback({.host = host})) << host;
  for (const char* host : {"0.0.0.0", "::", "128.0.0.1", "10.0.0.1", "::2", "::ffff:0.0.0.0",
                           "::ffff:10.0.0.1", "fe80::1", "::127.0.0.1"})
    EXPECT_FALSE(IsLoopback({.host = host})) << host;
}

TEST(Address, WhatAClientHasToSpeak) {
  EXPECT_TRUE(ReachOf({.host = "::1"}).ipv6_only);
  EXPECT_FALSE(ReachOf({.host = "127.0.0.1"}).ipv6_only);
  EXPECT_FALSE(ReachOf({.host = "localhost"}).ipv6_only);
  EXPECT_FALSE(ReachOf({.host = "no-such-host.invalid"}).unknown.empty());
}

}  // namespace
}  // namespace mf
