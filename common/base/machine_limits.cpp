#include "common/base/machine_limits.h"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/buffer_pool.h"

namespace mf {
namespace {

constexpr int kProcessorsMax = 1 << 16;

struct Limit {
  double value = 0;
  std::string from = {};  // what sets it; empty: the machine

  void Lower(double to, const std::string& by) {
    if (to < value) *this = {to, by};
  }
};

/// The first `count` numbers of a file; none for "max" (no limit) and where there is no such file.
std::vector<double> Numbers(const std::string& file, size_t count) {
  std::vector<double> numbers;
  std::ifstream in(file);
  for (double number = 0; numbers.size() < count && in >> number;) numbers.push_back(number);
  return numbers;
}

/// Splits at `separator`.
std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

bool Names(const std::string& list, const std::string& one) {
  const std::vector<std::string> all = Split(list, ',');
  return std::find(all.begin(), all.end(), one) != all.end();
}

/// The path of the process's group in the hierarchy of `controller`; "": that of version 2.
std::string GroupOf(const std::string& root, const std::string& controller) {
  std::ifstream in(root + "/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // number:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? controllers.empty() : Names(controllers, controller))
      return line.substr(second + 1);
  }
  return "/";
}

/// What of the group's path lies below the part of the hierarchy that is mounted. A path that
/// leads out of that part says nothing: what is mounted is then all that can be seen.
std::string BelowMount(const std::string& group, const std::string& mounted) {
  std::string below = group;
  if (mounted != "/") {
    if (!group.starts_with(mounted)) return "";
    below = group.substr(mounted.size());
    if (!below.empty() && below[0] != '/') return "";
  }
  if (below.find("/..") != std::string::npos) return "";
  return below == "/" ? "" : below;
}

/// The folders of the process's group and of those that it is in, the innermost first.
std::vector<std::string> Groups(const std::string& root, const std::string& controller) {
  const bool second_version = controller.empty();
  // Where /proc does not say it.
  std::string mount = second_version ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
  std::string below;
  std::ifstream in(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    // ID PARENT DEVICE ROOT MOUNT_POINT OPTIONS... - TYPE SOURCE SUPER_OPTIONS
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> left = Split(line.substr(0, dash), ' ');
    const std::vector<std::string> right = Split(line.substr(dash + 3), ' ');
    if (left.size() < 5 || right.size() < 3) continue;
    if (second_version ? right[0] != "cgroup2"
                       : right[0] != "cgroup" || !Names(right[2], controller))
      continue;
    mount = left[4];
    below = BelowMount(GroupOf(root, controller), left[3]);
    break;
  }
  std::vector<std::string> folders;
  for (; !below.empty(); below.erase(below.rfind('/'))) folders.push_back(mount + below);
  folders.push_back(mount);
  return folders;
}

Limit Memory(const std::string& root) {
  Limit limit{static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
              static_cast<double>(sysconf(_SC_PAGE_SIZE))};
  // Above memory.high a group is made to wait. v1 says a huge number where there is no limit.
  const auto lower = [&](const std::string& file) {
    const std::vector<double> bytes = Numbers(root + file, 1);
    if (!bytes.empty() && bytes[0] > 0) limit.Lower(bytes[0], file);
  };
  for (const std::string& folder : Groups(root, "")) {
    lower(folder + "/memory.max");
    lower(folder + "/memory.high");
  }
  for (const std::string& folder : Groups(root, "memory")) lower(folder + "/memory.limit_in_bytes");
  for (const auto& [which, name] :
       {std::pair{RLIMIT_AS, "ulimit -v"}, std::pair{RLIMIT_DATA, "ulimit -d"}}) {
    rlimit own = {};
    if (getrlimit(which, &own) == 0 && own.rlim_cur != RLIM_INFINITY)
      limit.Lower(static_cast<double>(own.rlim_cur), name);
  }
  return limit;
}

/// Processors that the scheduler may put this process on; 0 if it does not say.
int Affinity() {
  for (int most = CPU_SETSIZE; most <= kProcessorsMax; most *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(most));
    if (set == nullptr) return 0;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(most));
    const bool said = sched_getaffinity(0, bytes, set) == 0;
    const int count = said ? CPU_COUNT_S(bytes, set) : 0;
    const bool too_small = !said && errno == EINVAL;
    CPU_FREE(set);
    if (!too_small) return count;
  }
  return 0;
}

Limit Processors(const std::string& root) {
  Limit limit{static_cast<double>(std::max(1l, sysconf(_SC_NPROCESSORS_ONLN)))};
  if (const int allowed = Affinity(); allowed > 0) limit.Lower(allowed, "CPU affinity");
  const auto lower = [&](double quota, double period, const std::string& file) {
    if (quota > 0 && period > 0) limit.Lower(std::max(1.0, std::ceil(quota / period)), file);
  };
  for (const std::string& folder : Groups(root, "")) {
    const std::vector<double> both = Numbers(root + folder + "/cpu.max", 2);
    if (both.size() == 2) lower(both[0], both[1], folder + "/cpu.max");
  }
  for (const std::string& folder : Groups(root, "cpu")) {
    const std::vector<double> quota = Numbers(root + folder + "/cpu.cfs_quota_us", 1);
    const std::vector<double> period = Numbers(root + folder + "/cpu.cfs_period_us", 1);
    if (quota.empty() || period.empty()) continue;
    lower(quota[0], period[0], folder + "/cpu.cfs_quota_us");
  }
  return limit;
}

std::string By(const Limit& limit) { return limit.from.empty() ? "" : " (" + limit.from + ")"; }

}  // namespace

uint64_t MemoryLimitBytes(const std::string& root) {
  return static_cast<uint64_t>(Memory(root).value);
}

uint64_t DefaultTableBytes() { return MemoryLimitBytes() / 10 * 7; }

int CpuLimit(const std::string& root) { return static_cast<int>(Processors(root).value); }

std::string DescribeLimits(const std::string& root) {
  const Limit processors = Processors(root), memory = Memory(root);
  const int count = static_cast<int>(processors.value);
  char gibibytes[32];
  std::snprintf(gibibytes, sizeof gibibytes, "%.2f", memory.value / (1 << 30));
  return std::to_string(count) + (count == 1 ? " processor" : " processors") + By(processors) +
         ", " + gibibytes + " GiB of memory" + By(memory);
}

void PrepareProcess() {
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);  // else as many as there are: checked before use
  }
  std::signal(SIGXFSZ, SIG_IGN);
  // malloc_trim() gives back the free end of this arena only: each of the others, one a thread,
  // would keep what the largest snapshot or message ever took there.
  mallopt(M_ARENA_MAX, 1);
}

Status CheckThreads(int count) {
  std::atomic<bool> over = false;
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(std::max(0, count)));
  Status status;
  try {
    while (static_cast<int>(threads.size()) < count)
      threads.emplace_back([&over] { over.wait(false); });
  } catch (const std::system_error& error) {
    status = Status::Failed("cannot start " + std::to_string(count) + " threads, only " +
                            std::to_string(threads.size()) + ": " + error.code().message() +
                            "; raise ulimit -u (and -v, where it is set), or the limit of "
                            "processes of this container or job");
  }
  over = true;
  over.notify_all();
  for (std::thread& thread : threads) thread.join();
  return status;
}

Status CheckOpenFiles(int count) {
  std::vector<int> files;
  Status status;
  while (static_cast<int>(files.size()) < count) {
    const int file = open("/", O_RDONLY | O_CLOEXEC);
    if (file < 0) {
      status = Status::Failed("cannot open " + std::to_string(count) + " more files, only " +
                              std::to_string(files.size()) + ": " + std::strerror(errno) +
                              "; raise ulimit -n");
      break;
    }
    files.push_back(file);
  }
  for (const int file : files) close(file);
  return status;
}

void GiveBackMemory() {
  GiveUnusedBlocks();
  (void)malloc_trim(0);  // whether there was any
}

}  // namespace mf
