// Addresses of flags: what is understood is written as one text, which means the same again.
#include "common/base/address.h"
#include "tests/fuzz/support/target.h"

namespace mf {
namespace {

bool SameAddress(const Address& a, const Address& b) {
  return a.host == b.host && a.port == b.port;
}

}  // namespace
}  // namespace mf

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  const std::vector<std::string> lists = fuzz::Parts(fuzz::TextOf(data, size), 3);
  for (const AddressUse use : {AddressUse::kListen, AddressUse::kConnect}) {
    if (auto address = ParseTcp("--listen", lists[0], use); address.ok()) {
      auto again = ParseTcp("--listen", address->Tcp(), use);
      MF_CHECK(again.ok() && SameAddress(*again, *address));
      (void)IsLoopback(*address);
    }
    if (auto address = ParseHostPort("--metrics", lists[0], use); address.ok()) {
      auto again = ParseHostPort("--metrics", address->HostPort(), use);
      MF_CHECK(again.ok() && SameAddress(*again, *address));
    }
  }
  if (auto servers = ParseServers("--pservers", lists); servers.ok()) {
    auto again = ParseServers("--pservers", *servers);
    MF_CHECK(again.ok() && *again == *servers);
  }
  return 0;
}
