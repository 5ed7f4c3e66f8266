// A server and two peers that have joined its run: any requests, right or wrong, in any order.
#include "tests/fuzz/support/server_case.h"
#include "tests/fuzz/support/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mf::fuzz::RunScript(mf::fuzz::TextOf(data, size), /*joined=*/true);
  return 0;
}
