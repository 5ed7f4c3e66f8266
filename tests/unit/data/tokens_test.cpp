// Goal: token ids are the same whatever files they come from, and a file that is not what it is
// taken for is refused with a line that says what it is.
#include "worker/data/tokens.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

namespace mf {
namespace {

using Ids = std::vector<uint32_t>;

/// Little-endian numbers of so many bytes.
template <class T>
std::string Numbers(const std::vector<T>& numbers, size_t bytes) {
  std::string text;
  for (const T number : numbers) {
    for (size_t i = 0; i < bytes; ++i) {
      text += static_cast<char>(i < 8 ? static_cast<uint64_t>(number) >> (8 * i) : 0);
    }
  }
  return text;
}

std::string Swapped(std::string text) {
  for (size_t i = 0; i + 1 < text.size(); i += 2) std::swap(text[i], text[i + 1]);
  return text;
}

std::string LlmcHeader(uint32_t magic, uint32_t version, uint32_t tokens) {
  std::vector<uint32_t> words(256);
  words[0] = magic;
  words[1] = version;
  words[2] = tokens;
  return Numbers(words, 4);
}

class TokensTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "tokens_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ + "/in");
    for (uint32_t i = 0; i < 5000; ++i) ids_.push_back(i * 7919 % 40'000);
  }
  std::string Write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
    return folder_ + "/" + name;
  }
  /// All ids, read in pieces of random sizes; or the error as its only text.
  Ids Read(const std::string& path, int64_t vocabulary, DataConfig data = {}) {
    const auto tokens = Tokens::Open(path, vocabulary, {.data = data, .digest = true});
    error_ = tokens.ok() ? "" : tokens.status().message();
    if (!tokens.ok()) {
      EXPECT_EQ(tokens.status().code(), Code::kInvalid) << error_;
      return {};
    }
    Ids all(static_cast<size_t>(tokens.value()->size()));
    std::mt19937 random(7);
    for (size_t at = 0; at < all.size();) {
      const size_t count = std::min<size_t>(1 + random() % 3000, all.size() - at);
      EXPECT_TRUE(tokens.value()
                      ->Copy(static_cast<int64_t>(at), static_cast<int64_t>(count), &all[at])
                      .ok());
      at += count;
    }
    return all;
  }
  void ExpectRefused(const std::string& path, int64_t vocabulary, const std::string& named,
                     DataConfig data = {}) {
    EXPECT_EQ(Read(path, vocabulary, data), Ids());
    EXPECT_NE(error_.find(named), std::string::npos) << named << "\n" << error_;
    EXPECT_NE(error_.find(folder_), std::string::npos) << error_;
  }

  std::string folder_, error_;
  Ids ids_;
};

TEST_F(TokensTest, RawIdsAreAsWideAsTheVocabularyUnlessSaid) {
  EXPECT_EQ(Read(Write("16.bin", Numbers(ids_, 2)), 50257), ids_);
  EXPECT_EQ(Read(Write("32.bin", Numbers(ids_, 4)), 100'000), ids_);
  EXPECT_EQ(Read(folder_ + "/32.bin", 50257, {.ids = IdType::kU32}), ids_);
  EXPECT_EQ(Read(folder_ + "/16.bin", 100'000, {.ids = IdType::kU16}), ids_);
}

TEST_F(TokensTest, OtherWidthsAreRefusedInWords) {
  Write("16.bin", Numbers(ids_, 2));
  Write("32.bin", Numbers(ids_, 4));
  ExpectRefused(folder_ + "/32.bin", 50257, "ids of 32 bits");
  EXPECT_NE(error_.find("data.ids=u16 or u32"), std::string::npos) << error_;
  ExpectRefused(Write("64.bin", Numbers(ids_, 8)), 50257, "ids of 64 bits");
  ExpectRefused(folder_ + "/64.bin", 100'000, "ids of 64 bits");
  ExpectRefused(folder_ + "/16.bin", 100'000, "as ids of 16 bits all would fit");
  ExpectRefused(Write("swapped.bin", Swapped(Numbers(Ids(3000, 5), 2))), 257, "little-endian");
  std::string text;
  for (int i = 0; i < 500; ++i) text += "a small river ";
  ExpectRefused(Write("text.bin", text), 257, "looks like text");
  ExpectRefused(Write("zip.bin", "PK\x03\x04" + Numbers(ids_, 2)), 50257, "a zip archive");
  ExpectRefused(Write("numpy.bin", "\x93NUMPY" + Numbers(ids_, 2)), 50257, "a numpy array");
  // A true id above the vocabulary is nothing else.
  Ids above = ids_;
  above[77] = 50257;
  ExpectRefused(Write("above.bin", Numbers(above, 2)), 50257,
                "token id 50257 at position 77 is above the vocabulary of 50257; set "
                "model.vocabulary to more");
}

TEST_F(TokensTest, HeadersOfLlmcAreRead) {
  const auto count = static_cast<uint32_t>(ids_.size());
  const std::string raw = Numbers(ids_, 2), wide = Numbers(ids_, 4);
  EXPECT_EQ(Read(Write("gpt2.bin", LlmcHeader(20240520, 1, count) + raw), 50257), ids_);
  EXPECT_EQ(Read(Write("llama.bin", LlmcHeader(20240801, 7, count) + wide), 50257), ids_);
  EXPECT_EQ(Read(folder_ + "/gpt2.bin", 100'000), ids_);
  ExpectRefused(Write("cut.bin", LlmcHeader(20240520, 1, count + 1) + raw), 50257,
                "its header (llm.c) says 5001 tokens");
  ExpectRefused(Write("model.bin", LlmcHeader(20240326, 5, 1024) + raw), 50257, "holds no tokens");
  ExpectRefused(folder_ + "/gpt2.bin", 50257, "ids of 16 bits", {.ids = IdType::kU32});
  ExpectRefused(Write("none.bin", LlmcHeader(20240520, 1, 0)), 50257, "empty");
}

TEST_F(TokensTest, AnIndexOfMegatronSaysTheWidth) {
  // As Megatron's builder writes it: sequences of some lengths, a document each.
  const auto index = [this](char type, uint64_t width) {
    std::string text("MMIDIDX\0\0\1\0\0\0\0\0\0\0", 17);
    text.push_back(type);
    const std::vector<int32_t> lengths = {1000, 1, 0, static_cast<int32_t>(ids_.size()) - 1001};
    const auto append = [&text](auto number) {
      text.append(reinterpret_cast<const char*>(&number), sizeof(number));
    };
    append(uint64_t{lengths.size()});
    append(uint64_t{lengths.size() + 1});
    for (const int32_t length : lengths) append(length);
    uint64_t place = 0;
    for (const int32_t length : lengths) {
      append(place);
      place += static_cast<uint64_t>(length) * width;
    }
    for (uint64_t document = 0; document <= lengths.size(); ++document) append(document);
    return text;
  };
  const std::string bin = Write("x.bin", Numbers(ids_, 4));
  Write("x.idx", index(4, 4));
  EXPECT_EQ(Read(bin, 100'000), ids_);
  EXPECT_EQ(Read(bin, 50257), ids_);  // its width counts, not the vocabulary's
  Write("x.bin", Numbers(ids_, 2));
  ExpectRefused(bin, 100'000, "its index (.idx) says");
  for (const char type : {3, 8}) {
    Write("x.idx", index(type, 2));
    EXPECT_EQ(Read(bin, 100'000), ids_);
  }
  Write("x.bin", Numbers(ids_, 2).substr(0, 5000));
  ExpectRefused(bin, 100'000, "its index (.idx) says 10000 bytes; it has 5000: copy both again");
  for (const size_t cut : {20, 40, 60, 100}) {
    Write("x.idx", index(8, 2).substr(0, cut));
    ExpectRefused(bin, 100'000, "x.idx: ends in the middle");
  }
  Write("x.idx", index(7, 4));
  ExpectRefused(bin, 100'000, "numbers of type 7");
  Write("x.bin", Numbers(ids_, 4));
  Write("x.idx", index(4, 4));
  ExpectRefused(bin, 100'000, "its index (.idx) says ids of 32 bits", {.ids = IdType::kU16});
  for (const std::string& none : {std::string(), std::string("something else")}) {
    Write("x.idx", none);
    ExpectRefused(bin, 100'000, "is no index of Megatron");
    EXPECT_EQ(Read(bin, 100'000, {.ids = IdType::kU32}), ids_);
  }
  // Several pairs in a folder.
  for (const char* name : {"in/a", "in/b", "in/c"}) {
    Write(std::string(name) + ".bin", Numbers(ids_, 4));
    Write(std::string(name) + ".idx", index(4, 4));
  }
  EXPECT_EQ(Read(folder_ + "/in", 50257).size(), 3 * ids_.size());
}

TEST_F(TokensTest, ShardsAreOneSequence) {
  const Ids first(ids_.begin(), ids_.begin() + 1000), rest(ids_.begin() + 1000, ids_.end());
  Write("in/a_000000.bin", Numbers(first, 2));
  Write("in/a_000001.bin", LlmcHeader(20240520, 1, 4000) + Numbers(rest, 2));
  EXPECT_EQ(Read(folder_ + "/in", 50257), ids_);
  EXPECT_EQ(Read(folder_ + "/in/a_*.bin", 50257), ids_);
  EXPECT_EQ(Read(folder_ + "/in/*0.bin", 50257), first);
  Write("in/a_000001.idx", "anything");
  EXPECT_EQ(Read(folder_ + "/in", 50257), ids_);
  Write("in/readme.txt", "text");
  ExpectRefused(folder_ + "/in", 50257, "in/readme.txt, but not of both");
  EXPECT_EQ(Read(folder_ + "/in/*.bin", 50257), ids_);
  std::filesystem::create_directories(folder_ + "/mix");
  Write("mix/web_train_000001.bin", Numbers(first, 2));
  Write("mix/web_val_000000.bin", Numbers(first, 2));
  ExpectRefused(folder_ + "/mix", 50257, "held-out data would be trained on");
  EXPECT_EQ(Read(folder_ + "/mix/*train*.bin", 50257), first);
}

TEST_F(TokensTest, ManySmallTextsAreOneSequence) {
  // More than are kept open.
  Ids expected;
  for (int i = 0; i < 600; ++i) {
    const std::string text(static_cast<size_t>(i % 5), static_cast<char>('a' + i % 26));
    Write("in/" + std::to_string(1000 + i), text);
    if (text.empty()) continue;
    if (!expected.empty()) expected.push_back(kBytesEndOfText);
    for (const char c : text) expected.push_back(static_cast<unsigned char>(c));
  }
  EXPECT_EQ(Read(folder_ + "/in", 257), expected);
  const auto tokens = Tokens::Open(folder_ + "/in", 257);
  for (int64_t begin = 0; begin < tokens.value()->size(); begin += 3) {
    const int64_t count = std::min<int64_t>(begin % 9, tokens.value()->size() - begin);
    Ids some(static_cast<size_t>(count));
    ASSERT_TRUE(tokens.value()->Copy(begin, count, some.data()).ok());
    EXPECT_TRUE(std::equal(some.begin(), some.end(), expected.begin() + begin)) << begin;
  }
}

TEST_F(TokensTest, WhatIsNoTextIsToldAtOnceOrTakenAsItIs) {
  std::string one(1000, 'x'), two(1000, 'y');
  one[5] = one[500] = two[7] = '\0';
  Write("in/1", one);
  Write("in/2", two);
  Write("in/3", std::string(1000, 'z'));
  ExpectRefused(folder_ + "/in", 257, "in/1: 2 NUL bytes (byte 5, 500); ");
  EXPECT_NE(error_.find("in/2: 1 NUL byte (byte 7) (3 bytes in 2 of 3 files)"), std::string::npos)
      << error_;
  EXPECT_NE(error_.find("data.binary=true"), std::string::npos) << error_;
  const Ids ids = Read(folder_ + "/in", 257, {.binary = true});
  ASSERT_EQ(ids.size(), 3002u) << error_;
  EXPECT_EQ(ids[5], 0u);
  EXPECT_EQ(ids[6], uint32_t{'x'});
  EXPECT_EQ(ids[1000], kBytesEndOfText);
}

TEST_F(TokensTest, APipeIsReadToItsEnd) {
  const std::string path = folder_ + "/pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  // It does not wait for ever.
  ExpectRefused(path, 257, "a pipe that nobody writes to");
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += static_cast<char>('a' + i % 26);
  std::ofstream writer;
  std::ifstream keep;  // so that the writer does not wait for a reader
  std::thread opens([&] { keep.open(path); });
  writer.open(path);
  opens.join();
  std::thread writes([&] {
    writer << text;
    writer.close();
  });
  const Ids ids = Read(path, 257);
  writes.join();
  ASSERT_EQ(ids.size(), text.size()) << error_;
  EXPECT_EQ(ids[99'999], static_cast<uint32_t>(text.back()));
}

TEST_F(TokensTest, ADigestIsOfBytesAndOfHowTheyAreRead) {
  const auto digest = [&](const std::string& path, DataConfig data = {}) {
    const auto tokens = Tokens::Open(path, 60'000, {.data = data, .digest = true});
    EXPECT_TRUE(tokens.ok()) << tokens.status().message();
    return tokens.value()->Digest();
  };
  const std::string path = Write("a.bin", Numbers(ids_, 2));
  const std::string first = digest(path);
  EXPECT_EQ(digest(Write("b.bin", Numbers(ids_, 2))), first);
  Ids other = ids_;
  other[4000] ^= 1;
  EXPECT_NE(digest(Write("c.bin", Numbers(other, 2))), first);
  const std::string zeros = Write("zeros.bin", std::string(4000, '\0'));
  EXPECT_NE(digest(zeros, {.ids = IdType::kU16}), digest(zeros, {.ids = IdType::kU32}));
}

}  // namespace
}  // namespace mf
