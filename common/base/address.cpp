#include "common/base/address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <memory>
#include <optional>
#include <set>
#include <string_view>

#include "common/base/logging.h"

namespace mf {
namespace {

constexpr std::string_view kScheme = "tcp://";
constexpr unsigned kPortMax = 65535;

Status Bad(const std::string& flag, const std::string& text, const std::string& what) {
  return Status::Invalid(flag + " " + text + ": " + what);
}

bool IsHostCharacter(char c, bool in_brackets) {
  if (std::isalnum(static_cast<unsigned char>(c)) != 0) return true;
  return std::string_view(in_brackets ? ":.%-_" : ".-_").find(c) != std::string_view::npos;
}

/// Cuts HOST and PORT apart.
Result<Address> Parse(const std::string& flag, const std::string& text, std::string_view rest,
                      const std::string& form, AddressUse use) {
  const std::string due = "not of the form " + form;
  if (rest.find_first_of(" \t\r\n") != std::string_view::npos)
    return Bad(flag, text, "a space in it; " + due);
  const bool brackets = rest.starts_with('[');
  const size_t end = brackets ? rest.find(']') : rest.rfind(':');
  if (brackets && end == std::string_view::npos) return Bad(flag, text, "no ]; " + due);
  const std::string_view host = rest.substr(brackets ? 1 : 0, end - (brackets ? 1 : 0));
  const std::string_view tail =
      end == std::string_view::npos ? std::string_view() : rest.substr(end + (brackets ? 1 : 0));
  if (!brackets && host.find(':') != std::string_view::npos && end != std::string_view::npos)
    return Bad(flag, text, "an IPv6 address needs brackets: " + form);
  if (!tail.starts_with(':') || tail.size() == 1) return Bad(flag, text, "no port; " + due);
  if (host.empty()) {
    return Bad(
        flag, text,
        "no host; " + due +
            (use == AddressUse::kListen ? "; 0.0.0.0 is all addresses of this machine" : ""));
  }
  const bool all = host == "*" && use == AddressUse::kListen;
  if (!all && !std::all_of(host.begin(), host.end(),
                           [&](char c) { return IsHostCharacter(c, brackets); })) {
    return Bad(flag, text, "no name or number of a host; " + due);
  }
  Address address{.host = std::string(host)};
  in6_addr number;
  const std::string bare = address.host.substr(0, address.host.find('%'));
  if (brackets && inet_pton(AF_INET6, bare.c_str(), &number) != 1)
    return Bad(flag, text, "no IPv6 address between the brackets");
  unsigned port = 0;
  const char* last = tail.data() + tail.size();
  const auto read = std::from_chars(tail.data() + 1, last, port);
  const unsigned least = use == AddressUse::kListen ? 0 : 1;
  if (read.ec != std::errc() || read.ptr != last || port < least || port > kPortMax) {
    return Bad(flag, text,
               "port " + std::string(tail.substr(1)) + " is not one of " + std::to_string(least) +
                   " to 65535");
  }
  address.port = static_cast<uint16_t>(port);
  return address;
}

struct FreeNames {
  void operator()(addrinfo* names) const { freeaddrinfo(names); }
};
using Names = std::unique_ptr<addrinfo, FreeNames>;

/// All addresses of the host, or why there are none.
Result<Names> LookUp(const std::string& host, int flags) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) return Status::Invalid(gai_strerror(error));
  return Names(found);
}

/// The number, IPv4 if it is one in IPv6's clothes; nothing for other families.
std::optional<std::string> NumberOf(const sockaddr* address) {
  char text[NI_MAXHOST];
  if (address->sa_family == AF_INET6) {
    const in6_addr& six = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(&six)) {
      inet_ntop(AF_INET, &six.s6_addr[12], text, sizeof text);
      return text;
    }
  } else if (address->sa_family != AF_INET) {
    return std::nullopt;
  }
  const socklen_t size =
      address->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (getnameinfo(address, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0)
    return std::nullopt;
  return text;
}

/// The address of an interface of this machine by its name, as ZeroMQ takes it; IPv4 first.
std::optional<std::string> OfInterface(const std::string& name) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return std::nullopt;
  std::optional<std::string> four, six;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || name != one->ifa_name) continue;
    std::optional<std::string>& found = one->ifa_addr->sa_family == AF_INET ? four : six;
    if (!found.has_value()) found = NumberOf(one->ifa_addr);
  }
  freeifaddrs(all);
  return four.has_value() ? four : six;
}

}  // namespace

std::string Address::HostPort() const {
  return (is_ipv6() ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Address> ParseHostPort(const std::string& flag, const std::string& text, AddressUse use) {
  return Parse(flag, text, text, "HOST:PORT or [IPv6]:PORT", use);
}

Result<Address> ParseTcp(const std::string& flag, const std::string& text, AddressUse use) {
  const std::string form = "tcp://HOST:PORT or tcp://[IPv6]:PORT";
  const size_t first = text.find_first_not_of(" \t");
  if (first != 0 && first != std::string::npos) return Bad(flag, text, "a space before it");
  if (!text.starts_with(kScheme)) return Bad(flag, text, "not of the form " + form);
  return Parse(flag, text, std::string_view(text).substr(kScheme.size()), form, use);
}

Result<std::vector<std::string>> ParseServers(const std::string& flag,
                                              const std::vector<std::string>& lists) {
  std::vector<std::string> servers;
  std::set<std::string> known;
  for (const std::string& list : lists) {
    for (size_t begin = 0; begin <= list.size();) {
      const size_t end = std::min(list.find(',', begin), list.size());
      const std::string entry = list.substr(begin, end - begin);
      begin = end + 1;
      if (entry.empty()) {
        return Bad(flag, list,
                   "server " + std::to_string(servers.size()) +
                       " is empty; name all servers in shard order, with one comma between two");
      }
      MF_ASSIGN_OR_RETURN(const Address address, ParseTcp(flag, entry, AddressUse::kConnect));
      std::string key = address.HostPort();  // names of hosts know no case
      std::transform(key.begin(), key.end(), key.begin(),
                     [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      if (!known.insert(key).second) {
        return Bad(flag, list,
                   address.Tcp() + " is named twice; every server holds a shard of its own");
      }
      servers.push_back(address.Tcp());
    }
  }
  return servers;
}

Result<Address> ResolveToListen(const std::string& flag, const Address& address) {
  Address resolved = address;
  if (address.host == "*") {
    resolved.host = "0.0.0.0";
    return resolved;
  }
  if (const auto number = OfInterface(address.host); number.has_value()) {
    resolved.host = *number;
    return resolved;
  }
  const auto names = LookUp(address.host, AI_PASSIVE);
  std::optional<std::string> four, six;
  for (const addrinfo* one = names.ok() ? names.value().get() : nullptr; one != nullptr;
       one = one->ai_next) {
    const auto number = NumberOf(one->ai_addr);
    if (!number.has_value()) continue;
    std::optional<std::string>& found = number->find(':') == std::string::npos ? four : six;
    if (!found.has_value()) found = number;
  }
  if (!four.has_value() && !six.has_value()) {
    return Bad(flag, address.HostPort(),
               "no address is known of " + address.host +
                   (names.ok() ? "" : " (" + names.status().message() + ")") +
                   "; give an address of this machine, or 0.0.0.0 for all of them");
  }
  resolved.host = four.has_value() ? *four : *six;
  if (IsLoopback(resolved) && resolved.host != address.host && address.host != "localhost") {
    spdlog::warn("{} {} is {}, which other machines do not reach", flag, address.host,
                 resolved.host);
  }
  return resolved;
}

bool IsLoopback(const Address& address) {
  in_addr four;
  if (inet_pton(AF_INET, address.host.c_str(), &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
  in6_addr six;
  if (inet_pton(AF_INET6, address.host.c_str(), &six) != 1) return false;
  return IN6_IS_ADDR_LOOPBACK(&six) || (IN6_IS_ADDR_V4MAPPED(&six) && six.s6_addr[12] == 127);
}

Reach ReachOf(const Address& address) {
  if (address.is_ipv6()) return {.ipv6_only = true};
  in_addr number;
  if (inet_pton(AF_INET, address.host.c_str(), &number) == 1) return {};
  const auto names = LookUp(address.host, 0);
  if (!names.ok()) return {.unknown = names.status().message()};
  Reach reach{.ipv6_only = true};
  for (const addrinfo* one = names.value().get(); one != nullptr; one = one->ai_next) {
    if (one->ai_family == AF_INET) reach.ipv6_only = false;
  }
  return reach;
}

}  // namespace mf
