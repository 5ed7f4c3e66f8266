// Goal: a server killed at any moment of publishing finds whole snapshots, each one exactly the
// state after its step, and every step it had reported as published or a newer one.
//   snapshot_torture [--trials N] [--seed N]
// A child publishes versioned rows as fast as it can and reports each step; it is killed after a
// random time; then every byte is read back and compared with what the rows must be.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>

#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/support/snapshot_model.h"

namespace mf {
namespace {

constexpr uint64_t kRows = 600;
constexpr size_t kKeep = 2;
// Small, so that there are several tables in an increment and merges all the time.
constexpr RocksSnapshotOptions kOptions = {
    .file_bytes = 30000, .merge_ratio = 0.8, .merge_increments = 4};

uint64_t Mix(uint64_t x) {
  x = (x ^ x >> 31) * 0x9E3779B97F4A7C15ULL;
  x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9ULL;
  return x ^ x >> 32;
}

/// Whether step `step` writes the row: all at every sixth, a tenth otherwise.
bool Changes(uint64_t seed, uint64_t row, uint64_t step) {
  return step % 6 == 1 || Mix(seed + row * 1000003 + step) % 10 == 0;
}

std::string Value(uint64_t seed, uint64_t row, uint64_t step) {
  std::string value(240, '\0');
  for (size_t i = 0; i < value.size(); i += 8) {
    const uint64_t word = Mix(seed + row * 7919 + step * 104729 + i);
    std::memcpy(value.data() + i, &word, 8);
  }
  return value;
}

SnapshotKey KeyOf(uint64_t row) { return {static_cast<uint32_t>(row * 4 / kRows), row}; }

std::string RateOf(uint64_t step) { return std::string(8, static_cast<char>(step)); }

Entries StateAfter(uint64_t seed, uint64_t step) {
  Entries state;
  for (uint64_t row = 0; row < kRows; ++row) {
    for (uint64_t s = step; s >= 1; --s) {
      if (!Changes(seed, row, s)) continue;
      state[KeyOf(row)] = Value(seed, row, s);
      break;
    }
  }
  for (uint64_t s = 1; s <= step; ++s) state[{kRateSpace, s}] = RateOf(s);
  return state;
}

Status PublishForever(const std::string& folder, uint64_t seed) {
  MF_ASSIGN_OR_RETURN(const auto store, OpenRocksSnapshots(folder, kOptions));
  const std::vector<uint64_t> published = store->Published();
  uint64_t step = published.empty() ? 0 : published.back();
  if (step % 2 == 0 && step > 0) {
    // As a server does, that loads what it goes on from.
    MF_RETURN_IF_ERROR(store->Read(step, [](auto&&...) { return Status::Ok(); }).status());
  }
  MF_RETURN_IF_ERROR(store->Reset(step));
  for (;;) {
    ++step;
    MF_RETURN_IF_ERROR(store->Begin());
    for (uint64_t row = 0; row < kRows; ++row) {
      if (!Changes(seed, row, step)) continue;
      const std::string value = Value(seed, row, step);
      const SnapshotKey key = KeyOf(row);
      MF_RETURN_IF_ERROR(store->Put(key.space, key.id, value.data(), value.size()));
    }
    const std::string rate = RateOf(step);
    MF_RETURN_IF_ERROR(store->Put(kRateSpace, step, rate.data(), rate.size()));
    MF_RETURN_IF_ERROR(store->Publish(TestInfo(step)));
    if (write(STDOUT_FILENO, &step, sizeof(step)) != sizeof(step))
      return Status::Failed("nobody listens");
    std::vector<uint64_t> steps = store->Published();
    for (size_t i = 0; i + kKeep < steps.size(); ++i) MF_RETURN_IF_ERROR(store->Delete(steps[i]));
  }
}

/// Starts a child, kills it after `delay_us`, and returns the last step it reported, or `before`.
Result<uint64_t> RunAndKill(const char* program, const std::string& folder, uint64_t seed,
                            uint64_t delay_us, uint64_t before) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Status::Failed("no pipe");
  const pid_t child = fork();
  if (child < 0) return Status::Failed("no process");
  const std::string text = std::to_string(seed);
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    execl(program, program, "--child", folder.c_str(), text.c_str(), nullptr);
    _exit(127);
  }
  close(ends[1]);
  usleep(static_cast<useconds_t>(delay_us));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  uint64_t step = before, seen = 0;
  while (read(ends[0], &seen, sizeof(seen)) == sizeof(seen)) step = seen;
  close(ends[0]);
  if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
    return Status::Failed("the child ended by itself, status " + std::to_string(status));
  return step;
}

Status Check(const std::string& folder, uint64_t seed, uint64_t reported) {
  MF_ASSIGN_OR_RETURN(const auto reader, OpenRocksSnapshotReader(folder));
  const std::vector<uint64_t> steps = reader->Published();
  const uint64_t newest = steps.empty() ? 0 : steps.back();
  if (newest < reported || newest > reported + 1)
    return Status::Failed("step " + std::to_string(reported) + " was reported, the newest is " +
                          std::to_string(newest));
  if (steps.size() > kKeep + 1) return Status::Failed("too many steps: deletions are undone");
  if (newest > kKeep && steps.size() < kKeep) return Status::Failed("too few steps");
  for (const uint64_t step : steps) {
    MF_RETURN_IF_ERROR(reader->VerifyFiles(step));
    Entries found;
    MF_ASSIGN_OR_RETURN(const SnapshotInfo info, ReadEntries(*reader, step, &found));
    if (info.step != step || info.applied != TestInfo(step).applied)
      return Status::Failed("step " + std::to_string(step) + " says it is another");
    if (found != StateAfter(seed, step))
      return Status::Failed("step " + std::to_string(step) + " is not the state after it");
  }
  return Status::Ok();
}

int Torture(const char* program, uint64_t trials, uint64_t seed) {
  std::printf("seed %" PRIu64 ", %" PRIu64 " kills\n", seed, trials);
  std::fflush(stdout);
  const TemporaryFolder parent;
  const std::string folder = parent.path() + "/shard-0-of-1";
  if (!MakeFolder(folder).ok()) return 1;
  std::mt19937_64 random(seed);
  std::map<std::string, int> left;
  uint64_t reported = 0;
  for (uint64_t trial = 1; trial <= trials; ++trial) {
    const uint64_t delay_us = 1000 + random() % (trial % 4 == 0 ? 400000 : 120000);
    auto step = RunAndKill(program, folder, seed, delay_us, reported);
    Status status = step.status();
    for (const std::string& name : FileNames(folder)) {
      const std::string kind = name.substr(0, name.find_first_of("0123456789"));
      left[kind] += kind != "step-" && kind != "live";
    }
    if (status.ok()) status = Check(folder, seed, step.value());
    if (!status.ok()) {
      std::fprintf(stderr, "kill %" PRIu64 " of seed %" PRIu64 ": %s\n", trial, seed,
                   status.message().c_str());
      return 1;
    }
    const auto reader = OpenRocksSnapshotReader(folder);
    const std::vector<uint64_t> steps = reader.value()->Published();
    reported = steps.empty() ? 0 : steps.back();
  }
  std::printf("%" PRIu64 " steps published; kills that left", reported);
  for (const auto& [kind, count] : left)
    if (count > 0) std::printf(" %s: %d,", kind.c_str(), count);
  std::printf(" every snapshot was whole\n");
  // Kills that never come between Begin() and the rename would prove nothing.
  const bool inside = left["tmp-increment"] + left["tmp-step-"] > 0;
  if (!inside || reported < trials / 10) std::fprintf(stderr, "the kills missed the publishes\n");
  return inside && reported >= trials / 10 ? 0 : 1;
}

}  // namespace
}  // namespace mf

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--child") {
    const mf::Status status = mf::PublishForever(argv[2], std::strtoull(argv[3], nullptr, 10));
    std::fprintf(stderr, "child: %s\n", status.message().c_str());
    return 1;
  }
  uint64_t trials = 50, seed = std::random_device{}();
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    (flag == "--trials" ? trials : seed) = std::strtoull(argv[i + 1], nullptr, 10);
    if (flag != "--trials" && flag != "--seed") argc = 0;
  }
  if (argc % 2 == 0) {
    std::fprintf(stderr, "usage: snapshot_torture [--trials N] [--seed N]\n");
    return 2;
  }
  return mf::Torture("/proc/self/exe", trials, seed);
}
