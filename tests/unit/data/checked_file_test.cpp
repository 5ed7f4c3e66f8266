// Goal: what is read of a file is what its digest was made of, whatever happens to the file
// meanwhile; if it cannot be, that is an error with the file's name, never a signal or other bytes.
#include "worker/data/checked_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "common/base/digest.h"
#include "worker/data/digest_store.h"

namespace mf {
namespace {

constexpr uint64_t kPiece = 1000;

class CheckedFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "checked_file_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    for (int i = 0; i < 3500; ++i) text_ += static_cast<char>('a' + i % 26);
    path_ = Write("data", text_);
  }
  std::string Write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
    return folder_ + "/" + name;
  }
  void Overwrite(size_t at, const std::string& bytes) {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file << bytes;
    file.close();
    Later();
  }
  /// The times of two writes in one tick of the system's clock would be the same.
  void Later() {
    struct stat info;
    ASSERT_EQ(stat(path_.c_str(), &info), 0);
    const timespec times[2] = {{.tv_sec = info.st_mtim.tv_sec + ++seconds_, .tv_nsec = 0},
                               {.tv_sec = info.st_mtim.tv_sec + seconds_, .tv_nsec = 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, path_.c_str(), times, 0), 0);
  }
  std::unique_ptr<CheckedFile> Open(bool held, bool digest) {
    auto file = CheckedFile::Open(path_, held, kPiece);
    EXPECT_TRUE(file.ok()) << file.status().message();
    std::string all;
    EXPECT_TRUE(
        file.value()
            ->ReadAll(digest, [&](const char* data, size_t size) { all.append(data, size); })
            .ok());
    EXPECT_EQ(all, text_);
    return std::move(file).value();
  }
  Status Read(const CheckedFile& file, uint64_t at, size_t bytes) {
    std::string read(bytes, '\0');
    const Status status = file.Read(at, bytes, read.data());
    if (status.ok()) {
      EXPECT_EQ(read, text_.substr(at, bytes));
    }
    return status;
  }
  void ExpectFailed(const Status& status, const std::string& named) {
    EXPECT_EQ(status.code(), Code::kFailed);
    EXPECT_NE(status.message().find(named), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(path_), std::string::npos) << status.message();
  }

  std::string folder_, path_, text_;
  int seconds_ = 0;
};

TEST_F(CheckedFiles, DigestIsOfThePieces) {
  const auto file = Open(true, true);
  ASSERT_EQ(file->pieces().size(), 4u);
  EXPECT_EQ(file->pieces()[3], Sha256Hex(text_.substr(3000)));
  std::string pieces;
  for (const std::string& piece : file->pieces()) pieces += piece;
  EXPECT_EQ(file->Digest(), Sha256Hex(pieces));
  path_ = Write("small", text_ = text_.substr(0, kPiece));
  EXPECT_EQ(Open(true, true)->Digest(), Sha256Hex(text_));  // what sha256sum says
}

TEST_F(CheckedFiles, ReadsAnyRange) {
  for (const bool held : {true, false}) {
    for (const bool digest : {true, false}) {
      const auto file = Open(held, digest);
      for (size_t at = 0; at < text_.size(); at += 123) {
        EXPECT_TRUE(Read(*file, at, std::min<size_t>(1200, text_.size() - at)).ok());
      }
      EXPECT_TRUE(Read(*file, text_.size(), 0).ok());
    }
  }
}

TEST_F(CheckedFiles, AChangedPieceIsAnErrorAndOthersAreNot) {
  for (const bool held : {true, false}) {
    Write("data", text_);
    const auto file = Open(held, true);
    Overwrite(1500, "12345678");
    ExpectFailed(Read(*file, 1900, 10), "bytes 1000 to 2000");
    EXPECT_TRUE(Read(*file, 0, 1000).ok());
    ExpectFailed(Read(*file, 0, 1001), "bytes 1000 to 2000");
    Overwrite(1500, text_.substr(1500, 8));
    EXPECT_TRUE(Read(*file, 0, 3500).ok());
  }
}

TEST_F(CheckedFiles, ACutFileIsAnErrorWhereItIsCut) {
  for (const bool held : {true, false}) {
    Write("data", text_);
    const auto file = Open(held, true);
    std::filesystem::resize_file(path_, 2500);
    Later();
    EXPECT_TRUE(Read(*file, 100, 1800).ok());
    ExpectFailed(Read(*file, 2400, 50), "ends at byte 2500");
    ExpectFailed(Read(*file, 3400, 50), "ends at byte 2500");
    std::filesystem::resize_file(path_, 0);
    Later();
    ExpectFailed(Read(*file, 0, 1), "ends at byte 0");
  }
}

TEST_F(CheckedFiles, WhatChangesNoByteOfTheRunIsNoError) {
  const auto file = Open(true, true);
  Later();  // touched
  EXPECT_TRUE(Read(*file, 0, 3500).ok());
  Overwrite(3500, "more is appended");
  EXPECT_TRUE(Read(*file, 0, 3500).ok());
  Write("other", "quite another text");
  std::filesystem::rename(folder_ + "/other", path_);
  EXPECT_TRUE(Read(*file, 0, 3500).ok());  // it is held
  std::filesystem::remove(path_);
  EXPECT_TRUE(Read(*file, 0, 3500).ok());
}

TEST_F(CheckedFiles, AFileThatIsNotHeldIsKnownByItsBytes) {
  const auto file = Open(false, true);
  Write("same", text_);
  std::filesystem::rename(folder_ + "/same", path_);
  EXPECT_TRUE(Read(*file, 0, 3500).ok());
  std::filesystem::remove(path_);
  ExpectFailed(Read(*file, 0, 10), "No such file");
}

TEST_F(CheckedFiles, WithoutADigestAnyWriteIsAnError) {
  const auto file = Open(true, false);
  Later();
  ExpectFailed(Read(*file, 0, 10), "written to");
}

TEST_F(CheckedFiles, AFileThatChangesAgainAndAgainIsAnErrorInTheEnd) {
  const auto file = Open(true, true);
  Status status;
  int changes = 0;
  for (; status.ok() && changes < 100; ++changes) {
    Overwrite(text_.size(), "x");
    status = Read(*file, 0, 100);
  }
  ExpectFailed(status, "again and again");
  EXPECT_GT(changes, 10);
}

TEST_F(CheckedFiles, KnownPiecesAreCheckedWhenTheyAreFirstRead) {
  const auto first = Open(true, true);
  DigestStore store;
  store.Add(path_, first->identity(), first->pieces());
  ASSERT_TRUE(store.Save(folder_ + "/digests").ok());
  const DigestStore loaded = DigestStore::Load(folder_ + "/digests").value();
  auto pieces = loaded.Find(path_, first->identity());
  EXPECT_EQ(pieces, first->pieces());
  auto file = CheckedFile::Open(path_, true, kPiece);
  EXPECT_FALSE(file.value()->Adopt({pieces[0]}));
  std::swap(pieces[1], pieces[2]);
  ASSERT_TRUE(file.value()->Adopt(pieces));
  EXPECT_TRUE(Read(*file.value(), 0, 1000).ok());
  ExpectFailed(Read(*file.value(), 1000, 1), "bytes 1000 to 2000");
  // Another time, size or place: it is another file.
  Later();
  const auto touched = CheckedFile::Open(path_, true, kPiece);
  EXPECT_TRUE(loaded.Find(path_, touched.value()->identity()).empty());
  EXPECT_TRUE(loaded.Find(path_ + "x", first->identity()).empty());
}

TEST_F(CheckedFiles, ADamagedStoreKnowsNothing) {
  DigestStore store;
  store.Add(path_, {.bytes = 5}, {std::string(64, 'a')});
  ASSERT_TRUE(store.Save(folder_ + "/digests").ok());
  std::ifstream in(folder_ + "/digests", std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), {});
  EXPECT_FALSE(DigestStore::Load(folder_ + "/digests")->empty());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_TRUE(DigestStore::Load(Write("cut", whole.substr(0, i)))->empty()) << i;
    std::string other = whole;
    other[i] ^= 1;
    EXPECT_TRUE(DigestStore::Load(Write("other", other))->empty()) << i;
  }
}

TEST_F(CheckedFiles, AStoreOfANewerVersionIsRefused) {
  const std::string text = "mf-data-digests 2\nwhatever it is\n";
  const std::string path = Write("newer", text + Sha256Hex(text) + "\n");
  const Status status = DigestStore::Load(path).status();
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_EQ(status.message(), path +
                                  ": data-digests format 2: written by a newer version, update "
                                  "this program (it reads 1), or delete the file: it only saves "
                                  "time");
  const std::string foreign = "mf-data-digests x\n";
  EXPECT_TRUE(DigestStore::Load(Write("foreign", foreign + Sha256Hex(foreign) + "\n"))->empty());
}

}  // namespace
}  // namespace mf
