// Goal: a server killed at any moment of publishing finds whole snapshots, each one exactly the
// state after its step, and every step it had reported as published or a newer one.
//   snapshot_torture [--trials N] [--seed N]
// A child publishes versioned rows as fast as it can and reports each step; it is killed a random
// time after a random report; then every byte is read back and compared with what the rows must be.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>

#include "pserver/snapshot/snapshot_files.h"
#include "pserver/snapshot/snapshot_rocksdb.h"
#include "tests/support/versioned_rows.h"

namespace mf {
namespace {

Status PublishForever(const std::string& folder, uint64_t seed) {
  return PublishVersionedRows(folder, seed, UINT64_MAX, [](uint64_t step) {
    const bool told = write(STDOUT_FILENO, &step, sizeof(step)) == sizeof(step);
    return told ? Status::Ok() : Status::Failed("nobody listens");
  });
}

bool ReadStep(int pipe, uint64_t* step) {
  uint64_t seen = 0;
  if (read(pipe, &seen, sizeof(seen)) != sizeof(seen)) return false;
  *step = seen;
  return true;
}

uint64_t MicrosecondsSince(std::chrono::steady_clock::time_point begin) {
  const auto passed = std::chrono::steady_clock::now() - begin;
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(passed).count());
}

/// What a child said before it was killed.
struct Killed {
  uint64_t step = 0;      // the last step it reported, or the one it began with
  uint64_t first_us = 0;  // from its start to its first report; 0 if it made none
};

/// Starts a child, lets it report `reports` steps, waits `delay_us` and kills it. Reports, not the
/// clock, say how far it is: on a busy machine a child may need a second to open its folder.
Result<Killed> RunAndKill(const char* program, const std::string& folder, uint64_t seed,
                          uint64_t reports, uint64_t delay_us, uint64_t before) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Status::Failed("no pipe");
  const auto begin = std::chrono::steady_clock::now();
  const pid_t child = fork();
  if (child < 0) return Status::Failed("no process");
  const std::string text = std::to_string(seed);
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    execl(program, program, "--child", folder.c_str(), text.c_str(), nullptr);
    _exit(127);
  }
  close(ends[1]);
  Killed killed{.step = before};
  for (uint64_t report = 0; report < reports; ++report) {
    if (!ReadStep(ends[0], &killed.step)) break;  // it ended: said below
    if (report == 0) killed.first_us = MicrosecondsSince(begin);
  }
  usleep(static_cast<useconds_t>(delay_us));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  while (ReadStep(ends[0], &killed.step)) {
  }
  close(ends[0]);
  if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
    return Status::Failed("the child ended by itself, status " + std::to_string(status));
  return killed;
}

int Torture(const char* program, uint64_t trials, uint64_t seed) {
  std::printf("seed %" PRIu64 ", %" PRIu64 " kills\n", seed, trials);
  std::fflush(stdout);
  const TemporaryFolder parent;
  const std::string folder = parent.path() + "/shard-0-of-1";
  if (!MakeFolder(folder).ok()) return 1;
  std::mt19937_64 random(seed);
  std::map<std::string, int> left;
  uint64_t reported = 0, first_us = 1;
  for (uint64_t trial = 1; trial <= trials; ++trial) {
    // The delay spans a start and a publish: a kill behind no report also comes while the folder is
    // opened.
    const uint64_t reports = trial == 1 ? 1 : random() % 4;
    const uint64_t delay_us = random() % first_us;
    auto killed = RunAndKill(program, folder, seed, reports, delay_us, reported);
    Status status = killed.status();
    if (status.ok() && killed.value().first_us > 0) first_us = killed.value().first_us;
    for (const std::string& name : FileNames(folder)) {
      const std::string kind = name.substr(0, name.find_first_of("0123456789"));
      left[kind] += kind != "step-" && kind != "live";
    }
    if (status.ok()) status = CheckVersionedRows(folder, seed, killed.value().step);
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
