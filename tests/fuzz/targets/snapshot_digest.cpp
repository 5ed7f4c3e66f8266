// The DIGEST of a snapshot, and the check of the files that it names. The input is the DIGEST, with
// any checksum, then the bytes of a table and of a small file, with NUL bytes between them.
#include "pserver/snapshot/snapshot_digest.h"

#include <filesystem>

#include "common/base/files.h"
#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/sign_digest.h"
#include "tests/fuzz/support/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  const std::vector<std::string> parts = fuzz::Parts(fuzz::TextOf(data, size), 3);
  MF_CHECK(!DecodeDigest(parts[0] + "x", "DIGEST").ok());
  const std::string text = fuzz::SignDigest(parts[0]);
  fuzz::ScratchFile(kDigestName, text);
  fuzz::ScratchFile("000001.sst", parts[1]);
  fuzz::ScratchFile("CURRENT", parts[2]);
  auto digest = LoadDigest(fuzz::ScratchFolder());
  if (!digest.ok()) {
    MF_CHECK(digest.status().code() == Code::kDamaged || digest.status().code() == Code::kInvalid);
    return 0;
  }
  MF_CHECK(EncodeDigest(*digest) == text);
  MF_CHECK(digest->Summary().files == digest->files.size());
  const bool quick = CheckFiles(*digest, fuzz::ScratchFolder(), false).ok();
  const bool whole = CheckFiles(*digest, fuzz::ScratchFolder(), true).ok();
  if (quick && whole) MF_CHECK(digest->files.size() == 2);
  return 0;
}
