// Goal: what a file system cannot do is done in another way or said: links, syncs of folders,
// locks; and errors say what to do about them.
#include "common/base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "common/base/file_lock.h"

namespace {
// What the calls below fail with; 0: they do not.
int g_link_error = 0, g_folder_sync_error = 0, g_rename_error = 0, g_lock_error = 0;
// Folders that were synced, in order, each with the names in it; files are not counted.
std::vector<std::string> g_synced;
int Fail(int error) {
  errno = error;
  return -1;
}
}  // namespace

// Symbols of the program come before those of the C library. struct flock has a constructor of the
// same name, which nobody calls.
#pragma GCC diagnostic ignored "-Wshadow"
extern "C" {
int link(const char* from, const char* to) noexcept {
  return g_link_error != 0 ? Fail(g_link_error) : linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}
int rename(const char* from, const char* to) noexcept {
  return g_rename_error != 0 ? Fail(g_rename_error) : renameat(AT_FDCWD, from, AT_FDCWD, to);
}
int fsync(int file) {
  struct stat info;
  if (fstat(file, &info) != 0 || !S_ISDIR(info.st_mode)) return fdatasync(file);
  char path[4096] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(file);
  if (readlink(link.c_str(), path, sizeof(path) - 1) < 0) return -1;
  std::string words = std::filesystem::path(path).filename().string() + ":";
  for (const std::string& name : mf::FileNames(path)) words += " " + name;
  g_synced.push_back(words);
  return g_folder_sync_error != 0 ? Fail(g_folder_sync_error) : 0;
}
int flock(int, int) noexcept { return g_lock_error != 0 ? Fail(g_lock_error) : 0; }
}  // extern "C"

namespace mf {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = fs::temp_directory_path() / "files_test-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    g_link_error = g_folder_sync_error = g_rename_error = g_lock_error = 0;
    fs::remove_all(folder_);
  }
  std::string folder_;
};

TEST_F(Files, WhatIsNoFolderIsToldWithTheReason) {
  ASSERT_TRUE(WriteSynced(folder_ + "/file", "x").ok());
  EXPECT_TRUE(CheckFolder(folder_, "name another").ok());
  EXPECT_EQ(CheckFolder(folder_ + "/none", "name another").message(),
            folder_ + "/none: No such file or directory; name another");
  EXPECT_EQ(CheckFolder(folder_ + "/file", "name another").message(),
            folder_ + "/file: not a folder; name another");
  EXPECT_EQ(CheckFolder(folder_ + "/file/below", "name another").message(),
            folder_ + "/file/below: Not a directory; name another");
}

TEST_F(Files, LinksWhereItCanAndCopiesWhereNot) {
  const std::string from = folder_ + "/from";
  const std::string text(3 << 20, 'x');
  ASSERT_TRUE(WriteSynced(from, text).ok());
  ASSERT_TRUE(LinkOrCopy(from, folder_ + "/linked").ok());
  EXPECT_EQ(fs::hard_link_count(from), 2u);
  for (const int error : {EPERM, ENOTSUP, ENOSYS, EXDEV, EMLINK}) {
    g_link_error = error;
    const std::string to = folder_ + "/copied-" + std::to_string(error);
    const Status copied = LinkOrCopy(from, to);
    ASSERT_TRUE(copied.ok()) << copied.message();
    EXPECT_EQ(fs::hard_link_count(from), 2u);
    EXPECT_EQ(ReadSmallFile(to, text.size()).value(), text);
    EXPECT_FALSE(LinkOrCopy(from, to).ok()) << "never over what is there";
  }
  for (const int error : {ENOSPC, EDQUOT, EIO, EROFS, ENOENT}) {
    g_link_error = error;
    EXPECT_FALSE(LinkOrCopy(from, folder_ + "/not").ok()) << error;
    EXPECT_FALSE(FileExists(folder_ + "/not"));
  }
}

TEST_F(Files, FoldersNeedNotBeSynced) {
  for (const int error : {EINVAL, ENOTSUP, ENOSYS, EBADF}) {
    g_folder_sync_error = error;
    EXPECT_TRUE(SyncPath(folder_).ok()) << error;
    EXPECT_TRUE(PublishFile(folder_ + "/file", "text").ok());
  }
  for (const int error : {EIO, ENOSPC, EDQUOT}) {
    g_folder_sync_error = error;
    EXPECT_FALSE(SyncPath(folder_).ok()) << error;
  }
}

TEST_F(Files, AFolderIsNamedBeforeThereIsOneBelow) {
  const std::string name = fs::path(folder_).filename();
  g_synced.clear();
  ASSERT_TRUE(MakeFolder(folder_ + "/a/b/c/").ok());
  // The first: nobody knows whether who made it has made its name durable.
  const std::vector<std::string> above = {fs::path(folder_).parent_path().filename().string()};
  ASSERT_EQ(g_synced.size(), 4u);
  EXPECT_TRUE(g_synced[0].starts_with(above[0] + ":"));
  EXPECT_EQ(std::vector(g_synced.begin() + 1, g_synced.end()),
            (std::vector<std::string>{name + ": a", "a: b", "b: c"}));
  g_synced.clear();
  ASSERT_TRUE(MakeFolder(folder_ + "/a/b").ok());
  EXPECT_EQ(g_synced, std::vector<std::string>{"a: b"}) << "of somebody who may have been killed";
  g_synced.clear();
  ASSERT_TRUE(MakeScratchFolder(folder_ + "/x").ok());
  EXPECT_FALSE(MakeScratchFolder(folder_ + "/gone/y").ok()) << "nothing is made anew above it";
  EXPECT_TRUE(g_synced.empty());
  ASSERT_TRUE(WriteSynced(folder_ + "/file", "").ok());
  EXPECT_FALSE(MakeFolder(folder_ + "/file").ok());
  EXPECT_FALSE(MakeFolder(folder_ + "/file/below").ok());
  g_folder_sync_error = EIO;
  EXPECT_FALSE(MakeFolder(folder_ + "/z").ok());
  for (const int error : {EINVAL, EROFS}) {
    g_folder_sync_error = error;
    EXPECT_TRUE(MakeFolder(folder_ + "/" + std::to_string(error)).ok());
  }
}

TEST_F(Files, AFolderGoesAtOnce) {
  const std::string name = fs::path(folder_).filename();
  for (const std::string& path : {folder_ + "/one", GonePath(folder_ + "/one")}) {
    ASSERT_TRUE(MakeFolder(path + "/below").ok());
    ASSERT_TRUE(WriteSynced(path + "/below/file", "").ok());
  }
  g_synced.clear();
  ASSERT_TRUE(RemoveAtOnce(folder_ + "/one").ok());
  EXPECT_EQ(g_synced, std::vector<std::string>{name + ": gone-one"});
  EXPECT_TRUE(FileNames(folder_).empty());
  EXPECT_TRUE(RemoveAtOnce(folder_ + "/one").ok()) << "nothing there is fine";
}

TEST_F(Files, AFileSystemIsTried) {
  EXPECT_TRUE(CheckFileSystem(folder_).ok());
  EXPECT_TRUE(FileNames(folder_).empty()) << "nothing is left";
  g_link_error = EPERM;
  EXPECT_TRUE(CheckFileSystem(folder_).ok());
  g_rename_error = EEXIST;
  const Status status = CheckFileSystem(folder_);
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find("another file system"), std::string::npos);
  EXPECT_TRUE(FileNames(folder_).empty());
  g_rename_error = EDQUOT;  // a full disk is no other kind of file system
  EXPECT_TRUE(CheckFileSystem(folder_).ok());
}

TEST_F(Files, LocksAreBusyOrMissing) {
  const auto code = [&](int error, NoLocks without) {
    g_lock_error = error;
    const auto lock = FileLock::Take(folder_ + "/lock", FileLock::Kind::kExclusive, without);
    return lock.status().code();
  };
  EXPECT_EQ(code(0, NoLocks::kRefuse), Code::kOk);
  for (const NoLocks without : {NoLocks::kRefuse, NoLocks::kGoOn})
    EXPECT_EQ(code(EWOULDBLOCK, without), Code::kUnavailable);
  for (const int error : {ENOLCK, ENOTSUP, ENOSYS}) {
    EXPECT_EQ(code(error, NoLocks::kRefuse), Code::kInvalid);
    EXPECT_EQ(code(error, NoLocks::kGoOn), Code::kOk);
  }
  g_lock_error = 0;
  EXPECT_EQ(FileLock::Take(folder_ + "/none/lock", FileLock::Kind::kShared, NoLocks::kGoOn)
                .status()
                .code(),
            Code::kFailed);
}

TEST_F(Files, ErrorsSayWhatToDo) {
  const std::pair<int, const char*> said[] = {{ENOSPC, "free space"}, {EDQUOT, "quota"},
                                              {EROFS, "read only"},   {EACCES, "owner and mode"},
                                              {EMFILE, "ulimit -n"},  {EFBIG, "ulimit -f"}};
  for (const auto& [error, words] : said) {
    errno = error;
    const Status status = FileError("/x", "write");
    EXPECT_TRUE(status.message().starts_with("/x: cannot write: ")) << status.message();
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
  }
  EXPECT_TRUE(IsFull(ENOSPC) && IsFull(EDQUOT) && IsFull(EFBIG));
  EXPECT_FALSE(IsFull(EIO) || IsFull(EACCES));
}

}  // namespace
}  // namespace mf
