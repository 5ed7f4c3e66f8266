// Goal: the one rule for versions: what is known is read, what is newer says who is to be updated,
// what is too old says how to go on; and every format has a rule that can be kept.
#include "common/run/versions.h"

#include <gtest/gtest.h>

namespace mf {
namespace {

constexpr Format kFormats[] = {kProtocolFormat, kSnapshotFormat, kRunDescriptionFormat,
                               kExportFormat,   kRunFileFormat,  kDigestStoreFormat};

TEST(Versions, KnownOnesAreRead) {
  for (const Format& format : kFormats) {
    ASSERT_LE(format.oldest, format.newest);
    for (uint64_t version = format.oldest; version <= format.newest; ++version) {
      EXPECT_TRUE(CheckVersion(format, version, "x").ok()) << format.name;
    }
  }
}

TEST(Versions, NewerOnesSayWhoIsToBeUpdated) {
  constexpr Format kMade{"made format", 3, 5, "this test", "go back"};
  EXPECT_EQ(CheckVersion(kMade, 6, "a/b").message(),
            "a/b: made format 6: written by a newer version, update this test (it reads 3 to 5)");
  EXPECT_EQ(CheckVersion(kMade, 2, "").message(),
            "made format 2: written by an older version, which this test does not read (it reads 3 "
            "to 5); go back");
  for (const Format& format : kFormats) {
    for (const uint64_t version : {uint64_t{format.newest} + 1, uint64_t{UINT64_MAX}}) {
      const Status status = CheckVersion(format, version, "FILE");
      EXPECT_EQ(status.exit_code(), 2);
      EXPECT_EQ(status.message(), std::string("FILE: ") + format.name + " " +
                                      std::to_string(version) +
                                      ": written by a newer version, update " + format.reader +
                                      " (it reads " + std::to_string(format.newest) + ")");
    }
    const Status old = CheckVersion(format, format.oldest - 1, "FILE");
    EXPECT_EQ(old.exit_code(), 2);
    EXPECT_NE(old.message().find("written by an older version"), std::string::npos);
  }
}

TEST(Versions, TheProgramNamesItsSourceAndCompiler) {
  EXPECT_EQ((ProgramVersion{"1.2.3", "0123456789ab", "C 4"}).Text(),
            "1.2.3, commit 0123456789ab, C 4");
  EXPECT_EQ((ProgramVersion{"1.2.3", "", "C 4"}).Text(), "1.2.3, C 4");
  EXPECT_FALSE(ThisProgram().version.empty());
  EXPECT_FALSE(ThisProgram().compiler.empty());
}

}  // namespace
}  // namespace mf
