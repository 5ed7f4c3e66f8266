// Folders of servers: names, and the small files that the project reads there by itself. The input
// is two names, then description.json, boot, common and a DIGEST, with NUL bytes between them.
#include <sstream>

#include "common/base/files.h"
#include "pserver/offline/inspect.h"
#include "pserver/shard/data_directory.h"
#include "pserver/snapshot/snapshot_digest.h"
#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_folders.h"
#include "tests/fuzz/support/scratch_folder.h"
#include "tests/fuzz/support/sign_digest.h"
#include "tests/fuzz/support/target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mf;
  const std::vector<std::string> parts = fuzz::Parts(fuzz::TextOf(data, size), 6);
  for (const std::string& name : {parts[0], parts[1]}) {
    uint32_t shard = 0, shards = 0;
    if (ParseShardName(name, &shard, &shards)) {
      MF_CHECK(shard < shards && DataDirectory::PathOf("", shard, shards) == "/" + name);
    }
    if (const uint64_t step = StepOfName(name); step > 0) {
      MF_CHECK(StepPath("", step) == "/" + name);
    }
  }
  const std::string run = "run-0123456789abcdef", folder = run + "/shard-0-of-1";
  MF_CHECK(MakeFolder(fuzz::ScratchFolder() + "/" + folder + "/step-7").ok());
  fuzz::ScratchFile(run + "/" + kDescriptionFile, parts[2]);
  fuzz::ScratchFile(folder + "/boot", parts[3]);
  fuzz::ScratchFile(folder + "/common", parts[4]);
  fuzz::ScratchFile(folder + "/step-7/DIGEST", fuzz::SignDigest(parts[5]));
  const std::vector<RunFolder> runs = FindRuns(fuzz::ScratchFolder());
  MF_CHECK(runs.size() == 1);
  const StoredRun stored = DescribeStored(runs[0]);
  MF_CHECK(RunFolderName(stored.id) == runs[0].name);
  std::ostringstream table;
  const Status inspected = Inspect(fuzz::ScratchFolder(), /*verify=*/false, table);
  MF_CHECK(!table.str().empty() || !inspected.ok());
  auto directory = DataDirectory::Open(runs[0].path, 0, 1, NoLocks::kGoOn);
  if (directory.ok()) MF_CHECK((*directory)->boot_count() > 0);
  return 0;
}
