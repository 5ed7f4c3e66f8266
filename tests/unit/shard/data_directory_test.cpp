// Goal: the numbers that a server keeps in its folder are numbers in range, or the server does not
// start: one that began to count epochs anew, or forgot that a step was common, would do harm.
#include "pserver/shard/data_directory.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/snapshots/snapshot_model.h"

namespace mf {
namespace {

class DataDirectoryTest : public ::testing::Test {
 protected:
  Result<std::unique_ptr<DataDirectory>> Open() {
    return DataDirectory::Open(folder_.path(), 0, 1, NoLocks::kGoOn);
  }
  void Save(const std::string& name, const std::string& text) {
    std::ofstream(DataDirectory::PathOf(folder_.path(), 0, 1) + "/" + name, std::ios::trunc)
        << text;
  }
  TemporaryFolder folder_{TemporaryFolder::Where::kMemory};
};

TEST_F(DataDirectoryTest, CountsItsOpeningsAndKeepsTheCommonStep) {
  for (uint64_t boot = 1; boot <= 3; ++boot) {
    auto directory = Open();
    ASSERT_TRUE(directory.ok()) << directory.status().message();
    EXPECT_EQ((*directory)->boot_count(), boot);
    EXPECT_EQ((*directory)->common_step(), 10 * (boot - 1));
    ASSERT_TRUE((*directory)->KeepCommonStep(10 * boot).ok());
    ASSERT_TRUE((*directory)->KeepCommonStep(1).ok());
  }
}

TEST_F(DataDirectoryTest, WhatIsNoNumberIsRefused) {
  ASSERT_TRUE(Open().ok());
  for (const char* name : {"boot", "common"}) {
    for (const char* text :
         {"", "\n", "x\n", "-1\n", "+1\n", " 1\n", "1", "1\n\n", "1 2\n", "0x1\n", "1e3\n",
          "18446744073709551615\n", "18446744073709551616\n", "99999999999\n"}) {
      Save(name, text);
      const auto directory = Open();
      ASSERT_FALSE(directory.ok()) << name << ": " << text;
      EXPECT_EQ(directory.status().code(), Code::kInvalid);
      EXPECT_NE(directory.status().message().find(std::string("/") + name + ": not a number from"),
                std::string::npos)
          << directory.status().message();
    }
    Save(name, "7\n");
    ASSERT_TRUE(Open().ok());
  }
}

}  // namespace
}  // namespace mf
