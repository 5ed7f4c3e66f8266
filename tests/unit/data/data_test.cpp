// Goal: batches are a pure function of their numbers, cover the training tokens evenly and never
// touch held-out ones; unusable data is refused by name.
#include "worker/data/data.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace mf {
namespace {

class Data : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "data_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ + "/in/sub");
    config_.model.sequence = 8;
    config_.train.batch = 3;
    config_.train.micro_batches = 2;
  }
  std::string Write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
    return folder_ + "/" + name;
  }
  /// A .bin whose token at position i is i.
  std::string WriteCounting(size_t count) {
    std::string bytes;
    for (size_t i = 0; i < count; ++i) {
      bytes += static_cast<char>(i);
      bytes += static_cast<char>(i >> 8);
    }
    config_.model.vocabulary = static_cast<int64_t>(count);
    return Write("count.bin", bytes);
  }
  void ExpectRefused(const std::string& path, const std::string& named) {
    const auto source = TokenSource::Open(config_, path);
    ASSERT_FALSE(source.ok()) << named;
    EXPECT_EQ(source.status().code(), Code::kInvalid);
    EXPECT_NE(source.status().message().find(named), std::string::npos)
        << source.status().message();
    EXPECT_NE(source.status().message().find(folder_), std::string::npos);
  }

  std::string folder_;
  Config config_;
};

TEST_F(Data, PermutationIsOne) {
  for (const uint64_t size : {1, 2, 3, 5, 16, 17, 1000}) {
    const Permutation order(42, size);
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < size; ++i) seen.insert(order(i));
    EXPECT_EQ(seen.size(), size);
    EXPECT_LT(*seen.rbegin(), size);
  }
}

TEST_F(Data, TargetsFollowInputsAndBatchesRepeat) {
  const auto source = TokenSource::Open(config_, WriteCounting(1000));
  ASSERT_TRUE(source.ok()) << source.status().message();
  TokenBatch a, b;
  ASSERT_TRUE(source.value()->TrainBatch(7, 1, &a).ok());
  ASSERT_TRUE(source.value()->TrainBatch(7, 1, &b).ok());
  EXPECT_EQ(a.sequences, 3u);
  EXPECT_EQ(a.tokens(), 24u);
  EXPECT_EQ(a.inputs, b.inputs);
  for (size_t i = 0; i < a.tokens(); ++i) {
    EXPECT_EQ(a.targets[i], a.inputs[i] + 1);
    EXPECT_EQ(a.inputs[i], a.inputs[i / 8 * 8] + i % 8);
  }
  ASSERT_TRUE(source.value()->TrainBatch(8, 1, &b).ok());
  EXPECT_NE(a.inputs, b.inputs);
  config_.train.seed = 2;
  const auto other = TokenSource::Open(config_, WriteCounting(1000));
  ASSERT_TRUE(other.value()->TrainBatch(7, 1, &b).ok());
  EXPECT_NE(a.inputs, b.inputs);
}

TEST_F(Data, AnEpochSeesEveryWindowOnceAndNothingHeldOut) {
  const auto source = TokenSource::Open(config_, WriteCounting(1000));
  ASSERT_TRUE(source.ok());
  EXPECT_EQ(source.value()->train_tokens(), 900);
  EXPECT_EQ(source.value()->validation_tokens(), 100);
  constexpr int64_t kWindows = (900 - 8) / 8;
  std::set<uint32_t> offsets;
  std::multiset<uint32_t> seen;
  int64_t drawn = 0;
  for (int64_t step = 1; drawn < 4 * kWindows; ++step) {
    for (int64_t number = 0; number < 2; ++number) {
      TokenBatch batch;
      ASSERT_TRUE(source.value()->TrainBatch(step, number, &batch).ok());
      for (size_t s = 0; s < 3; ++s, ++drawn) {
        if (drawn < kWindows)
          seen.insert(batch.inputs.begin() + 8 * s, batch.inputs.begin() + 8 * (s + 1));
        offsets.insert(batch.inputs[8 * s] % 8);
        EXPECT_LT(batch.targets[8 * s + 7], 900u);
      }
    }
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(8 * kWindows));
  EXPECT_EQ(std::set<uint32_t>(seen.begin(), seen.end()).size(), seen.size());
  EXPECT_GT(offsets.size(), 1u);  // another cut in another epoch
}

TEST_F(Data, EvaluationIsFixedAndHeldOut) {
  config_.train.eval_batches = 5;
  const auto source = TokenSource::Open(config_, WriteCounting(1000));
  ASSERT_TRUE(source.ok());
  ASSERT_EQ(source.value()->eval_sequences(), 5);
  TokenBatch all, tail;
  ASSERT_TRUE(source.value()->EvalBatch(0, 5, &all).ok());
  ASSERT_TRUE(source.value()->EvalBatch(3, 2, &tail).ok());
  EXPECT_TRUE(std::equal(tail.inputs.begin(), tail.inputs.end(), all.inputs.begin() + 24));
  EXPECT_EQ(std::set<uint32_t>(all.inputs.begin(), all.inputs.end()).size(), 40u);
  EXPECT_GE(*std::min_element(all.inputs.begin(), all.inputs.end()), 900u);
  config_.train.eval_batches = 1000;
  EXPECT_EQ(TokenSource::Open(config_, WriteCounting(1000)).value()->eval_sequences(), 12);
  config_.data.validation_ratio = 0;
  EXPECT_EQ(TokenSource::Open(config_, WriteCounting(1000)).value()->eval_sequences(), 0);
}

TEST_F(Data, ASingleSequenceIsEnough) {
  config_.data.validation_ratio = 0;
  const auto source = TokenSource::Open(config_, WriteCounting(9));
  ASSERT_TRUE(source.ok()) << source.status().message();
  TokenBatch batch;
  ASSERT_TRUE(source.value()->TrainBatch(100, 1, &batch).ok());
  EXPECT_EQ(batch.inputs[0], 0u);
  ExpectRefused(WriteCounting(8), "too short");
}

TEST_F(Data, FoldersAreDocumentsInSortedOrder) {
  Write("in/b.txt", "bb");
  Write("in/sub/a.txt", "a");
  Write("in/a.txt", "caf\xc3\xa9");
  Write("in/empty", "");
  Write("in/.hidden", std::string(4, '\0'));
  const auto tokens = Tokens::Open(folder_ + "/in", 257);
  ASSERT_TRUE(tokens.ok()) << tokens.status().message();
  std::vector<uint32_t> ids(static_cast<size_t>(tokens.value()->size()));
  ASSERT_TRUE(tokens.value()->Copy(0, tokens.value()->size(), ids.data()).ok());
  EXPECT_EQ(ids, (std::vector<uint32_t>{'c', 'a', 'f', 0xc3, 0xa9, 256, 'b', 'b', 256, 'a'}));
}

TEST_F(Data, DigestKnowsTheTokensNotTheFile) {
  const std::string text(2000, 'x');
  std::string bin;
  for (size_t i = 0; i < text.size(); ++i) bin += std::string("x\0", 2);
  const auto digest = [&](const std::string& path) {
    const auto source = TokenSource::Open(config_, path);
    EXPECT_TRUE(source.ok());
    return source.value()->Digest();
  };
  const std::string first = digest(Write("a.txt", text));
  EXPECT_EQ(digest(Write("a.bin", bin)), first);
  EXPECT_NE(digest(Write("b.txt", text + "x")), first);
  EXPECT_NE(digest(Write("c.txt", "y" + text.substr(1))), first);
  config_.data.validation_ratio = 0.2;
  EXPECT_NE(digest(Write("a.txt", text)), first);
}

TEST_F(Data, RefusesUnusableData) {
  ExpectRefused(folder_ + "/none", "no such file");
  ExpectRefused(Write("empty", ""), "empty");
  ExpectRefused(Write("empty.bin", ""), "empty");
  std::filesystem::create_directories(folder_ + "/void");
  ExpectRefused(folder_ + "/void", "empty");
  ExpectRefused(Write("nul", std::string("text\0text", 9)), "binary data where text is needed");
  std::string noise;
  for (int i = 0; i < 500; ++i) noise += static_cast<char>(1 + i * 37 % 255);
  ExpectRefused(Write("noise", noise), "binary data where text is needed");
  ExpectRefused(Write("odd.bin", "abc"), "3 bytes");
  ExpectRefused(Write("short", "hello"), "too short");
  ExpectRefused(Write("val", std::string(50, 'x')), "validation_ratio holds out 5 tokens");
  Write("in/tokens.bin", "ab");
  ExpectRefused(folder_ + "/in", "tokens.bin");
  std::string bin(200, '\0');
  bin[61] = 3;  // position 30 is 768
  ExpectRefused(Write("above.bin", bin),
                "token id 768 at position 30 is above the vocabulary of 257");
}

}  // namespace
}  // namespace mf
