// Goal: what a folder of data holds is read whole or refused by name: links are followed, nothing
// is skipped in silence, nothing waits, and nothing that a run writes is data.
#include "worker/data/data_files.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace mf {
namespace {

namespace fs = std::filesystem;

class DataFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    top_ = testing::TempDir() + "data_files_test";
    fs::remove_all(top_);
    fs::create_directories(top_ + "/in/sub");
    Write("in/b.txt");
    Write("in/sub/a.txt");
  }
  void Write(const std::string& name) { std::ofstream(top_ + "/" + name) << "text"; }
  /// Paths below the folder of the test, or what the error says.
  std::vector<std::string> Find(const std::string& data, const std::vector<OwnPlace>& own = {}) {
    auto files = FindDataFiles(top_ + "/" + data, own);
    if (!files.ok()) {
      EXPECT_EQ(files.status().code(), Code::kInvalid);
      return {"error", files.status().message()};
    }
    std::vector<std::string> paths;
    for (const std::string& path : files->paths) paths.push_back(path.substr(top_.size() + 1));
    return paths;
  }
  void ExpectRefused(const std::string& data, const std::string& named,
                     const std::vector<OwnPlace>& own = {}) {
    const auto found = Find(data, own);
    ASSERT_EQ(found.size(), 2u) << data;
    ASSERT_EQ(found[0], "error") << data;
    EXPECT_NE(found[1].find(named), std::string::npos) << found[1];
  }
  using Paths = std::vector<std::string>;

  std::string top_;
};

TEST_F(DataFilesTest, LinksAreFollowedAndLoopsEnd) {
  fs::create_directories(top_ + "/elsewhere/deep");
  Write("elsewhere/deep/c.txt");
  fs::create_directory_symlink(top_ + "/elsewhere", top_ + "/in/linked");
  fs::create_symlink("b.txt", top_ + "/in/z.txt");
  fs::create_directory_symlink("..", top_ + "/in/sub/up");
  fs::create_directory_symlink(".", top_ + "/in/here");
  EXPECT_EQ(Find("in"), (Paths{"in/b.txt", "in/linked/deep/c.txt", "in/sub/a.txt", "in/z.txt"}));
  fs::create_directory_symlink(top_ + "/in", top_ + "/to");
  EXPECT_EQ(Find("to").size(), 4u);
}

TEST_F(DataFilesTest, WhatCannotBeReadIsNamed) {
  fs::create_symlink("gone", top_ + "/in/dangling");
  ExpectRefused("in", "in/dangling: cannot be read: a link to gone, which is not there");
  fs::remove(top_ + "/in/dangling");
  fs::create_symlink("loop", top_ + "/in/loop");
  ExpectRefused("in", "in/loop: cannot be read: Too many levels");
  fs::remove(top_ + "/in/loop");
  ASSERT_EQ(mkfifo((top_ + "/in/fifo").c_str(), 0600), 0);
  ExpectRefused("in", "in/fifo: is a pipe");
  fs::remove(top_ + "/in/fifo");
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  // A path that fits, whatever the test's folder is called.
  const fs::path back = fs::current_path();
  fs::current_path(top_ + "/in");
  std::snprintf(address.sun_path, sizeof(address.sun_path), "socket");
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  fs::current_path(back);
  close(listener);
  ExpectRefused("in", "in/socket: is a socket");
  fs::remove(top_ + "/in/socket");
  // Hidden ones are not looked at.
  fs::create_symlink("gone", top_ + "/in/.dangling");
  EXPECT_EQ(Find("in").size(), 2u);
  ExpectRefused("none", "none: no such file or directory");
  fs::create_symlink("gone", top_ + "/link");
  ExpectRefused("link", "link: cannot be read: a link to gone, which is not there");
  ExpectRefused("in/b.txt/x", "Not a directory");
  ExpectRefused(std::string(300, 'n'), "File name too long");
}

TEST_F(DataFilesTest, APatternTakesTheFilesThatMatch) {
  Write("in/b_1.txt");
  EXPECT_EQ(Find("in/b*.txt"), (Paths{"in/b.txt", "in/b_1.txt"}));
  EXPECT_EQ(Find("in/b_[0-9].txt"), (Paths{"in/b_1.txt"}));
  ExpectRefused("in/*.bin", "no file of this folder matches");
  ExpectRefused("in/*", "in/sub: is a folder");
  Write("in/[x].txt");
  EXPECT_EQ(Find("in/[x].txt"), (Paths{"in/[x].txt"}));  // one of this name is itself
}

TEST_F(DataFilesTest, WhatTheRunWritesIsNoData) {
  const auto out = [&](const std::string& path) {
    return std::vector<OwnPlace>{{"--out", top_ + "/" + path}};
  };
  ExpectRefused("in", "--out " + top_ + "/in/run lies in the data", out("in/run"));
  ExpectRefused("in", "lies in the data", out("in"));
  ExpectRefused("in", "lies in the data", out("in/sub/deep/run"));
  ExpectRefused("in", "lies in the data", out("other/../in/run"));
  fs::create_directory_symlink(top_ + "/in/sub", top_ + "/link");
  ExpectRefused("in", "lies in the data", out("link/run"));
  ExpectRefused("in", "--export", {{"--export", top_ + "/in/sub/m.safetensors"}});
  ExpectRefused("in/*", "lies in the data", out("in/run"));
  EXPECT_EQ(Find("in/*.txt", out("in/run")).size(), 1u);
  // What is left out of the data may be there, and so may the data in the folder of the run.
  EXPECT_EQ(Find("in", out("in/.run")).size(), 2u);
  EXPECT_EQ(Find("in", out("outside")).size(), 2u);
  EXPECT_EQ(Find("in/b.txt", out("in")).size(), 1u);
  EXPECT_EQ(Find("in", out("")).size(), 2u);
  EXPECT_EQ(Find("in", {{"--out", ""}, {"--export", ""}}).size(), 2u);
  // Through a link in the data, too.
  fs::create_directories(top_ + "/far/away");
  fs::create_directory_symlink(top_ + "/far", top_ + "/in/far");
  ExpectRefused("in", "lies in the data", out("far/away/run"));
}

TEST_F(DataFilesTest, WhatRunsHaveWrittenIsNoData) {
  fs::create_directories(top_ + "/out/state/x");
  Write("out/state/x/y.txt");
  Write("out/metrics.jsonl");
  const std::vector<OwnPlace> own = {{"--out", top_ + "/out"}};
  ExpectRefused("out/state", "is what the run writes to --out", own);
  ExpectRefused("out/state/x", "is what the run writes to --out", own);
  ExpectRefused("out/state/x/y.txt", "is what the run writes to --out", own);
  ExpectRefused("out/metrics.jsonl", "is what the run writes to --out", own);
  ExpectRefused("out/metr*", "is what the run writes to --out", own);
  Write("out/run");
  ExpectRefused("out", "holds what a run has written");
  fs::create_directories(top_ + "/in/shard-0-of-2");
  ExpectRefused("in", "in/shard-0-of-2: holds snapshots of a server");
}

}  // namespace
}  // namespace mf
