// Addresses as people write them: HOST:PORT, and tcp://HOST:PORT for what speaks our messages. HOST
// is a name, an IPv4 number or an IPv6 one in brackets. Every flag that takes an address is read
// here, so that all of them know the same forms and say the same of the wrong ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace mf {

struct Address {
  std::string host;   // without brackets: "pserver-0", "10.0.0.1", "::1"
  uint16_t port = 0;  // 0: any free one, of who listens

  /// "10.0.0.1:7000", "[::1]:7000"
  std::string HostPort() const;
  std::string Tcp() const { return "tcp://" + HostPort(); }
  bool is_ipv6() const { return host.find(':') != std::string::npos; }
};

/// Who listens may leave the port open (0) and name all addresses ("*").
enum class AddressUse { kListen, kConnect };

/// "HOST:PORT". kInvalid, in one line that begins with `flag` and says what is wrong.
Result<Address> ParseHostPort(const std::string& flag, const std::string& text, AddressUse use);
/// "tcp://HOST:PORT"; the same errors.
Result<Address> ParseTcp(const std::string& flag, const std::string& text, AddressUse use);

/// The servers of one or more lists with commas between them, each as Address::Tcp(), in their
/// order. kInvalid also for an empty entry and for a server that is named twice.
Result<std::vector<std::string>> ParseServers(const std::string& flag,
                                              const std::vector<std::string>& lists);

/// `address` with a number as its host: names are looked up (IPv4 before IPv6, as clients do), the
/// name of an interface is its address, "*" is 0.0.0.0, and an IPv4 address in IPv6's clothes is
/// IPv4. kInvalid, saying what to give, for a name that nobody knows. May wait for a name server.
Result<Address> ResolveToListen(const std::string& flag, const Address& address);

/// True if only this machine reaches it. REQUIRES: a host that ResolveToListen() gave.
bool IsLoopback(const Address& address);

/// What a client that connects to the host has to speak. May wait for a name server.
struct Reach {
  bool ipv6_only = false;    // has IPv6 addresses and no others
  std::string unknown = {};  // why the name is not known now; empty: it is
};
Reach ReachOf(const Address& address);

}  // namespace mf
