// Goal: a container's limits count where they are below the machine's, in both versions of cgroups.
#include "common/base/machine_limits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace mf {
namespace {

namespace fs = std::filesystem;

class MachineLimits : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = fs::temp_directory_path() / "machine_limits-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) {
    fs::create_directories(fs::path(folder_ + name).parent_path());
    std::ofstream(folder_ + name) << text << "\n";
  }
  const int cores_ = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::string folder_;
};

TEST_F(MachineLimits, NoGroupNoLimit) {
  EXPECT_EQ(CpuLimit(folder_), cores_);
  EXPECT_GT(MemoryLimitBytes(folder_), uint64_t{1} << 28);
}

TEST_F(MachineLimits, VersionTwo) {
  const uint64_t all = MemoryLimitBytes(folder_);
  Write("/memory.max", "max");
  Write("/cpu.max", "max 100000");
  EXPECT_EQ(MemoryLimitBytes(folder_), all);
  EXPECT_EQ(CpuLimit(folder_), cores_);
  Write("/memory.max", "123456789");
  Write("/cpu.max", "50000 100000");
  EXPECT_EQ(MemoryLimitBytes(folder_), 123456789u);
  EXPECT_EQ(CpuLimit(folder_), 1);
  Write("/cpu.max", "150000 100000");
  EXPECT_EQ(CpuLimit(folder_), std::min(2, cores_));
  Write("/cpu.max", "99900000 100000");
  EXPECT_EQ(CpuLimit(folder_), cores_);
}

TEST_F(MachineLimits, VersionOne) {
  const uint64_t all = MemoryLimitBytes(folder_);
  Write("/memory/memory.limit_in_bytes", "9223372036854771712");
  Write("/cpu/cpu.cfs_period_us", "100000");
  Write("/cpu/cpu.cfs_quota_us", "-1");
  EXPECT_EQ(MemoryLimitBytes(folder_), all);
  EXPECT_EQ(CpuLimit(folder_), cores_);
  Write("/memory/memory.limit_in_bytes", "123456789");
  Write("/cpu/cpu.cfs_quota_us", "20000");
  EXPECT_EQ(MemoryLimitBytes(folder_), 123456789u);
  EXPECT_EQ(CpuLimit(folder_), 1);
}

}  // namespace
}  // namespace mf
