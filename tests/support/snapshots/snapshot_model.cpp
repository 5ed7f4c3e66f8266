#include "tests/support/snapshots/snapshot_model.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <set>

namespace mf {

TemporaryFolder::TemporaryFolder(Where where) {
  std::filesystem::path parent = std::filesystem::temp_directory_path();
  std::error_code error;
  const std::filesystem::path memory = "/dev/shm";
  if (where == Where::kMemory && std::filesystem::space(memory, error).available > 64U << 20 &&
      !error && access(memory.c_str(), W_OK) == 0) {
    parent = memory;
  }
  std::string name = (parent / "mf_snapshots_XXXXXX").string();
  MF_CHECK(mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

SnapshotInfo TestInfo(uint64_t step) {
  return {.step = step,
          .run_id = "0123456789abcdef",
          .description = R"({"tensors":[]})",
          .shard = 1,
          .shards = 3,
          .applied = step - step / 10};
}

Entries RowEntries(const RowChoice& choice, std::mt19937_64* random) {
  Entries entries;
  std::uniform_real_distribution<double> uniform;
  for (uint64_t i = 0; i < choice.rows; ++i) {
    if (random != nullptr && choice.share < 1 && uniform(*random) >= choice.share) continue;
    const SnapshotKey key{static_cast<uint32_t>(i * 3 / choice.rows), i};
    std::string value = std::to_string(i) + ":" + std::to_string(choice.version) + ":";
    std::mt19937_64 noise(i * 1000003 + choice.version);
    while (value.size() < choice.bytes) {
      const uint64_t word = noise();
      value.append(reinterpret_cast<const char*>(&word), sizeof(word));
    }
    value.resize(choice.bytes);
    entries[key] = std::move(value);
  }
  return entries;
}

Status PublishEntries(SnapshotStore& store, uint64_t step, const Entries& changed) {
  MF_RETURN_IF_ERROR(store.Begin());
  for (const auto& [key, value] : changed)
    MF_RETURN_IF_ERROR(store.Put(key.space, key.id, value.data(), value.size()));
  return store.Publish(TestInfo(step));
}

Result<SnapshotInfo> ReadEntries(SnapshotReader& reader, uint64_t step, Entries* entries) {
  entries->clear();
  return reader.Read(step, [&](uint32_t space, uint64_t id, const std::byte* data, size_t bytes) {
    const SnapshotKey key{space, id};
    if (!entries->empty() && entries->rbegin()->first >= key)
      return Status::Failed("entries do not rise");
    entries->emplace_hint(entries->end(), key,
                          std::string(reinterpret_cast<const char*>(data), bytes));
    return Status::Ok();
  });
}

uint64_t DiskBytes(const std::string& folder) {
  std::set<ino_t> seen;
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    struct stat info;
    if (lstat(entry.path().c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
        seen.insert(info.st_ino).second) {
      bytes += static_cast<uint64_t>(info.st_size);
    }
  }
  return bytes;
}

}  // namespace mf
