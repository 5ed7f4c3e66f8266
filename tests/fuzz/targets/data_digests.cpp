// The sidecar with digests of data files. It carries a digest of itself, which is added here, as no
// fuzzer finds one: behind it stands what reads the lines.
#include "common/base/digest.h"
#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/target.h"
#include "worker/data/digest_store.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  const std::string body(fuzz::TextOf(data, size));
  (void)DigestStore::Load(fuzz::ScratchFile("data-digests", body));
  const std::string path = fuzz::ScratchFile("data-digests", body + Sha256Hex(body) + "\n");
  Result<DigestStore> store = DigestStore::Load(path);
  if (!store.ok()) {
    MF_CHECK(store.status().message().find('\n') == std::string::npos);  // a newer version
    return 0;
  }
  const std::string copy = fuzz::ScratchFolder() + "/data-digests-2";
  MF_CHECK(store->Save(copy).ok());
  Result<DigestStore> again = DigestStore::Load(copy);
  MF_CHECK(again.ok() && again->empty() == store->empty());
  return 0;
}
