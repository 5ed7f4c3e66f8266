// A server and what strangers send it: garbage, requests without a session, hellos of any run.
#include "tests/fuzz/support/server_case.h"
#include "tests/fuzz/support/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mf::fuzz::RunScript(mf::fuzz::TextOf(data, size), /*joined=*/false);
  return 0;
}
