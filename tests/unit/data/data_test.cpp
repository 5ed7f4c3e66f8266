// Goal: batches are a pure function of their numbers, cover the training tokens evenly and never
// touch held-out ones; unusable data is refused by name.
#include "worker/data/data.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "common/base/digest.h"

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

TEST_F(Data, SharesAreAsNearAsWholeNumbersAre) {
  EXPECT_EQ(SharesOf({1}, 8), (std::vector<int64_t>{8}));
  EXPECT_EQ(SharesOf({0.7, 0.3}, 1000), (std::vector<int64_t>{700, 300}));
  EXPECT_EQ(SharesOf({1, 1, 1}, 1000), (std::vector<int64_t>{334, 333, 333}));
  EXPECT_EQ(SharesOf({1e300, 1e300, 1e290}, 10), (std::vector<int64_t>{5, 5, 0}));
  EXPECT_EQ(SharesOf({5e-324, 1.5e-323}, 100), (std::vector<int64_t>{25, 75}));
}

/// Three corpora whose tokens are their own numbers.
class MixtureData : public Data {
 protected:
  static constexpr int64_t kTokens[] = {1000, 400, 100};
  static constexpr const char* kMixture = "# shares\n\n 5 a.bin\n2.5\tsub/b.bin \n0.5 c.bin\r\n";

  void SetUp() override {
    Data::SetUp();
    std::filesystem::create_directories(folder_ + "/sub");
    uint32_t next = 0;
    const char* names[] = {"a.bin", "sub/b.bin", "c.bin"};
    for (size_t i = 0; i < 3; ++i) {
      std::string bytes;
      for (int64_t t = 0; t < kTokens[i]; ++t, ++next) {
        bytes += static_cast<char>(next);
        bytes += static_cast<char>(next >> 8);
      }
      Write(names[i], bytes);
    }
    config_.model.vocabulary = next;
  }
  static size_t CorpusOf(uint32_t token) { return token < 1000 ? 0 : token < 1400 ? 1 : 2; }
};

TEST_F(MixtureData, EachHasItsShareAndEpochsOfItsOwn) {
  const auto source = TokenSource::Open(config_, Write("three.mix", kMixture));
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_EQ(source.value()->train_tokens(), 1350);
  EXPECT_EQ(source.value()->validation_tokens(), 150);
  const int64_t shares[] = {625, 313, 62};  // of 625, 312.5 and 62.5
  std::vector<std::vector<uint32_t>> firsts[3];
  for (int64_t step = 1; step <= 500; ++step) {
    for (int64_t number = 0; number < 2; ++number) {
      TokenBatch batch;
      ASSERT_TRUE(source.value()->TrainBatch(step, number, &batch).ok());
      for (size_t s = 0; s < 3; ++s) {
        const auto begin = batch.inputs.begin() + static_cast<std::ptrdiff_t>(8 * s);
        const size_t corpus = CorpusOf(*begin);
        firsts[corpus].emplace_back(begin, begin + 8);
        EXPECT_EQ(CorpusOf(batch.targets[8 * s + 7]), corpus);
      }
    }
  }
  for (size_t corpus = 0; corpus < 3; ++corpus) {
    // 3000 sequences are three blocks.
    EXPECT_EQ(std::ssize(firsts[corpus]), 3 * shares[corpus]);
    EXPECT_EQ(source.value()->shares()[corpus].part, static_cast<double>(shares[corpus]) / 1000);
    // Within a block their order is any, so an epoch is told by what comes as often as another.
    std::map<uint32_t, int64_t> seen;
    for (const auto& window : firsts[corpus]) {
      for (const uint32_t token : window) ++seen[token];
    }
    const int64_t train = kTokens[corpus] * 9 / 10;
    const int64_t windows = (train - 8) / 8;
    const int64_t epochs = 3 * shares[corpus] / windows;
    int64_t most = 0;
    for (const auto& [token, times] : seen) most = std::max(most, times);
    EXPECT_LE(most, epochs + 1);  // no window twice in an epoch
    EXPECT_GE(std::ssize(seen), windows * 8);
    for (const auto& [token, times] : seen) {
      const int64_t at = token - (corpus == 0 ? 0 : corpus == 1 ? 1000 : 1400);
      EXPECT_LT(at, train) << "held out";
    }
  }
}

TEST_F(MixtureData, EvaluatesAllByWeight) {
  config_.train.eval_batches = 8;
  const auto source = TokenSource::Open(config_, Write("three.mix", kMixture));
  ASSERT_TRUE(source.ok()) << source.status().message();
  ASSERT_EQ(source.value()->eval_sequences(), 8);  // 5, 3 and 0
  TokenBatch all, part;
  ASSERT_TRUE(source.value()->EvalBatch(0, 8, &all).ok());
  std::vector<uint32_t> parts;
  for (int64_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(source.value()->EvalBatch(i, 1, &part).ok());
    parts.insert(parts.end(), part.inputs.begin(), part.inputs.end());
  }
  EXPECT_EQ(all.inputs, parts);
  for (const uint32_t token : parts) {
    const size_t corpus = CorpusOf(token);
    const int64_t at = token - (corpus == 0 ? 0 : corpus == 1 ? 1000 : 1400);
    EXPECT_GE(at, kTokens[corpus] * 9 / 10);
  }
}

TEST_F(MixtureData, SharesAreAPartOfWhatTheDataIs) {
  const auto digest = [&](const std::string& mixture) {
    const auto source = TokenSource::Open(config_, Write("one.mix", mixture));
    EXPECT_TRUE(source.ok()) << source.status().message();
    return source.value()->Digest();
  };
  const std::string one = digest("1 a.bin\n1 c.bin\n");
  EXPECT_EQ(digest("7 a.bin\n7.0 " + folder_ + "/c.bin"), one);
  EXPECT_NE(digest("2 a.bin\n1 c.bin\n"), one);
  EXPECT_NE(digest("1 c.bin\n1 a.bin\n"), one);
  // Of one corpus it is that corpus.
  EXPECT_EQ(digest("3 a.bin\n"), TokenSource::Open(config_, folder_ + "/a.bin").value()->Digest());
}

TEST_F(MixtureData, RefusesWhatIsNone) {
  for (const auto& [text, why] : std::map<std::string, std::string>{
           {"", "empty; a mixture has a line"},
           {"# 1 a.bin\n", "empty"},
           {"1 a.bin\na.bin\n", "line 2: does not begin with a weight above 0"},
           {"0 a.bin", "line 1: does not begin with a weight"},
           {"-1 a.bin", "line 1: does not begin with a weight"},
           {"nan a.bin", "line 1: does not begin with a weight"},
           {"1e999 a.bin", "line 1: does not begin with a weight"},
           {"0.5x a.bin", "line 1: does not begin with a weight"},
           {"1", "line 1: has no path after the weight"},
           {"1 a.bin\n\n2 a.bin", "line 3: names"},
           {"1 other.mix", "line 1: names another mixture"},
           {"1 missing.bin", "missing.bin: no such file"},
           {"1 a.bin\n1e-9 c.bin", "less than one in 1000"}}) {
    ExpectRefused(Write("bad.mix", text), why);
  }
  // Where a mixture makes no sense it is not read as text.
  const std::string mixture = Write("three.mix", kMixture);
  const auto validation = TokenSource::Open(config_, folder_ + "/a.bin", mixture);
  EXPECT_EQ(validation.status().code(), Code::kInvalid);
  EXPECT_NE(validation.status().message().find("a mixture of corpora"), std::string::npos);
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

TEST_F(Data, DigestIsOfEveryByteAndNotOfNames) {
  std::string text;
  for (int64_t i = 0; i < 200'000; ++i) text += static_cast<char>('a' + i * i % 23);
  const auto digest = [&](const std::string& path) {
    const auto source = TokenSource::Open(config_, path);
    EXPECT_TRUE(source.ok()) << source.status().message();
    return source.value()->Digest();
  };
  const std::string first = digest(Write("a.txt", text));
  EXPECT_EQ(digest(Write("b.txt", text)), first);
  EXPECT_NE(digest(Write("c.txt", text + "x")), first);
  for (const size_t at : {size_t{0}, size_t{77'777}, text.size() - 1}) {
    std::string other = text;
    other[at] = 'z';
    EXPECT_NE(digest(Write("c.txt", other)), first) << at;
  }
  // Cut in two documents, in another order, and with another part held out.
  Write("in/1.txt", text.substr(0, 1000));
  Write("in/2.txt", text.substr(1000));
  const std::string two = digest(folder_ + "/in");
  EXPECT_NE(two, first);
  std::filesystem::rename(folder_ + "/in/1.txt", folder_ + "/in/sub/1.txt");
  const std::string swapped = digest(folder_ + "/in");
  EXPECT_NE(swapped, two);
  config_.data.validation_ratio = 0.2;
  EXPECT_NE(digest(folder_ + "/b.txt"), first);
}

TEST_F(Data, HeldOutDataThatIsTrainedOnIsFound) {
  Write("in/a.txt", std::string(100, 'a'));
  Write("in/b.txt", std::string(100, 'b'));
  const Tokens::Options options{.digest = true};
  const auto train = Tokens::Open(folder_ + "/in", 257, options);
  const auto same = Tokens::Open(Write("val.txt", std::string(100, 'b')), 257, options);
  const auto other = Tokens::Open(Write("other.txt", std::string(101, 'b')), 257, options);
  const std::string both = train.value()->CommonFile(*same.value());
  EXPECT_NE(both.find("in/b.txt and "), std::string::npos) << both;
  EXPECT_NE(both.find(Sha256Hex(std::string(100, 'b'))), std::string::npos) << both;
  EXPECT_EQ(train.value()->CommonFile(*other.value()), "");
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
