// Goal: the smallest limit counts of all that a process is under: of its own cgroup and those that
// it is in, in both versions, of its CPU affinity and of its own limits; and it is said which.
#include "common/base/machine_limits.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <system_error>

#include "common/base/thread_pool.h"

namespace {
int g_threads_left = 1 << 20;  // that the system will start
}

// Symbols of the program come before those of the C library.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*run)(void*), void* argument) noexcept {
  if (g_threads_left-- <= 0) return EAGAIN;
  using Create = int(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static auto* const real = reinterpret_cast<Create*>(dlsym(RTLD_NEXT, "pthread_create"));
  return real(thread, attributes, run, argument);
}

namespace mf {
namespace {

namespace fs = std::filesystem;

class MachineLimits : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = fs::temp_directory_path() / "machine_limits-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }
  void Write(const std::string& name, const std::string& text) {
    fs::create_directories(fs::path(root_ + name).parent_path());
    std::ofstream(root_ + name) << text << "\n";
  }
  void MountV2(const std::string& mounted = "/") {
    Write("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:26 " + mounted +
                                      " /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw");
  }
  void MountV1() {
    Write("/proc/self/mountinfo",
          "40 22 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
          "41 22 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
          "42 22 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw");
  }
  /// True if `check` holds in a process of its own, whose limits end with it.
  static bool InChild(const std::function<bool()>& check) {
    const pid_t child = fork();
    if (child == 0) _exit(check() ? 0 : 1);
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  const int cores_ = CpuLimit("/nowhere");
  const uint64_t memory_ = MemoryLimitBytes("/nowhere");
  std::string root_;
};

TEST_F(MachineLimits, NoGroupNoLimit) {
  EXPECT_EQ(CpuLimit(root_), cores_);
  EXPECT_GE(cores_, 1);
  EXPECT_GT(MemoryLimitBytes(root_), uint64_t{1} << 28);
}

TEST_F(MachineLimits, VersionTwoOfAContainer) {
  MountV2();
  Write("/proc/self/cgroup", "0::/");
  Write("/sys/fs/cgroup/memory.max", "max");
  Write("/sys/fs/cgroup/cpu.max", "max 100000");
  EXPECT_EQ(MemoryLimitBytes(root_), memory_);
  EXPECT_EQ(CpuLimit(root_), cores_);
  Write("/sys/fs/cgroup/memory.max", "123456789");
  Write("/sys/fs/cgroup/cpu.max", "50000 100000");
  EXPECT_EQ(MemoryLimitBytes(root_), 123456789u);
  EXPECT_EQ(CpuLimit(root_), 1);
  Write("/sys/fs/cgroup/cpu.max", "150000 100000");
  EXPECT_EQ(CpuLimit(root_), std::min(2, cores_));
  Write("/sys/fs/cgroup/cpu.max", "99900000 100000");
  EXPECT_EQ(CpuLimit(root_), cores_);
}

TEST_F(MachineLimits, VersionTwoOfAJobBelowTheRoot) {
  MountV2();
  Write("/proc/self/cgroup", "0::/system.slice/slurmstepd.scope/job_7/step_0");
  Write("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/memory.max", "max");
  Write("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/memory.max", "200000000");
  Write("/sys/fs/cgroup/system.slice/slurmstepd.scope/memory.max", "900000000");
  Write("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/cpu.max", "100000 100000");
  EXPECT_EQ(MemoryLimitBytes(root_), 200000000u);
  EXPECT_EQ(CpuLimit(root_), 1);
  const std::string said = DescribeLimits(root_);
  EXPECT_NE(said.find("0.19 GiB of memory (/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/"
                      "memory.max)"),
            std::string::npos)
      << said;
  const bool limited = said.find("1 processor (/sys/fs/cgroup/") != std::string::npos;
  EXPECT_EQ(limited, cores_ > 1) << said;
  // systemd's MemoryHigh= of the unit itself.
  Write("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/memory.high", "150000000");
  EXPECT_EQ(MemoryLimitBytes(root_), 150000000u);
}

TEST_F(MachineLimits, OnlyAPartOfTheHierarchyIsMounted) {
  // Docker without a namespace of cgroups: its own group is mounted as the root.
  MountV2("/docker/abc");
  Write("/sys/fs/cgroup/memory.max", "300000000");
  Write("/sys/fs/cgroup/inner/memory.max", "200000000");
  Write("/proc/self/cgroup", "0::/docker/abc");
  EXPECT_EQ(MemoryLimitBytes(root_), 300000000u);
  Write("/proc/self/cgroup", "0::/docker/abc/inner");
  EXPECT_EQ(MemoryLimitBytes(root_), 200000000u);
  for (const char* elsewhere : {"0::/docker/abcdef/inner", "0::/../inner", "0::/other"}) {
    Write("/proc/self/cgroup", elsewhere);
    EXPECT_EQ(MemoryLimitBytes(root_), 300000000u) << elsewhere;
  }
}

TEST_F(MachineLimits, VersionOne) {
  MountV1();
  Write("/proc/self/cgroup", "5:memory:/slurm/uid_1/job_7\n4:cpu,cpuacct:/slurm/job_7\n0::/");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1");
  EXPECT_EQ(MemoryLimitBytes(root_), memory_);
  EXPECT_EQ(CpuLimit(root_), cores_);
  Write("/sys/fs/cgroup/memory/slurm/uid_1/memory.limit_in_bytes", "123456789");
  Write("/sys/fs/cgroup/memory/slurm/uid_1/job_7/memory.limit_in_bytes", "9223372036854771712");
  Write("/sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us", "100000");
  Write("/sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us", "20000");
  EXPECT_EQ(MemoryLimitBytes(root_), 123456789u);
  EXPECT_EQ(CpuLimit(root_), 1);
}

TEST_F(MachineLimits, WithoutProcTheMountedGroupCounts) {
  Write("/sys/fs/cgroup/memory.max", "123456789");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "23456789");
  EXPECT_EQ(MemoryLimitBytes(root_), 23456789u);
}

TEST_F(MachineLimits, AffinityAndOwnLimits) {
  EXPECT_TRUE(InChild([&] {
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof all, &all) != 0) return false;
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
      if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
    }
    return sched_setaffinity(0, sizeof one, &one) == 0 && CpuLimit(root_) == 1;
  }));
  EXPECT_TRUE(InChild([&] {
    const rlimit limit{uint64_t{1} << 28, uint64_t{1} << 28};
    return setrlimit(RLIMIT_DATA, &limit) == 0 && MemoryLimitBytes(root_) == limit.rlim_cur;
  }));
}

TEST_F(MachineLimits, WhatCannotBeHadIsSaidBefore) {
  EXPECT_TRUE(CheckThreads(4).ok());
  EXPECT_TRUE(CheckOpenFiles(8).ok());
  EXPECT_TRUE(InChild([] {
    const rlimit limit{16, 16};
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
    const Status status = CheckOpenFiles(64);
    return status.code() == Code::kFailed &&
           status.message().find("ulimit -n") != std::string::npos && CheckOpenFiles(1).ok();
  }));
}

TEST_F(MachineLimits, NoMoreThreads) {
  for (const int left : {0, 3}) {
    g_threads_left = left;
    const Status status = CheckThreads(7);
    EXPECT_EQ(status.code(), Code::kFailed);
    EXPECT_NE(status.message().find("cannot start 7 threads, only " + std::to_string(left)),
              std::string::npos)
        << status.message();
    EXPECT_NE(status.message().find("ulimit -u"), std::string::npos);
    // Those that were started end before the exception is anybody's.
    g_threads_left = left;
    EXPECT_THROW(ThreadPool(8), std::system_error);
  }
  g_threads_left = 1 << 20;
  EXPECT_TRUE(CheckThreads(7).ok());
}

TEST_F(MachineLimits, OpenFilesAreRaisedToWhatIsAllowed) {
  EXPECT_TRUE(InChild([] {
    rlimit limit{32, 64};
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
    PrepareProcess();
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 64;
  }));
}

}  // namespace
}  // namespace mf
