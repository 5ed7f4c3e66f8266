// Goal: every tokenizer gives ids that stand for the text they came from, cuts words as GPT-2 does,
// finds added tokens as Hugging Face's library does, and refuses by name what it does not know.
// That ids are those of other programs is tests/tokenizer/.
#include "worker/tokenizer/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "worker/tokenizer/added_tokens.h"
#include "worker/tokenizer/byte_pairs.h"
#include "worker/tokenizer/gpt2_words.h"
#include "worker/tokenizer/utf8.h"

namespace mf {
namespace {

using nlohmann::json;
using Ids = std::vector<uint32_t>;

std::vector<std::string> WordsOf(std::string_view text) {
  std::vector<std::string> words;
  for (size_t at = 0; at < text.size();) {
    words.emplace_back(text.substr(at, Gpt2WordAt(text, at)));
    at += words.back().size();
  }
  return words;
}

TEST(Gpt2Words, AreThoseOfTheRegularExpression) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(WordsOf("Hello  world"), (Words{"Hello", " ", " world"}));
  EXPECT_EQ(WordsOf("it's 're 'S don'tx"),
            (Words{"it", "'s", " '", "re", " '", "S", " don", "'t", "x"}));
  EXPECT_EQ(WordsOf("a1 12b"), (Words{"a", "1", " 12", "b"}));
  EXPECT_EQ(WordsOf("x \n\n y"), (Words{"x", " \n\n", " y"}));
  EXPECT_EQ(WordsOf("x\ny\n"), (Words{"x", "\n", "y", "\n"}));
  EXPECT_EQ(WordsOf("  "), (Words{"  "}));
  EXPECT_EQ(WordsOf("a\xC2\xA0\xE2\x80\x83z"), (Words{"a", "\xC2\xA0", "\xE2\x80\x83", "z"}));
  EXPECT_EQ(WordsOf("'ll'-' '"), (Words{"'ll", "'-'", " '"}));
  EXPECT_EQ(WordsOf("\xFF\xFE x\x80"), (Words{"\xFF\xFE", " x", "\x80"}));
  EXPECT_EQ(WordsOf("'"), (Words{"'"}));
}

TEST(Utf8, BytesThatAreNoCharacterStandAlone) {
  for (const std::string text :
       {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\x80"}) {
    EXPECT_EQ(CharacterAt(text, 0).code, kNoCharacter) << text;
    EXPECT_EQ(CharacterAt(text, 0).bytes, 1u);
  }
  EXPECT_EQ(CharacterAt("\xF0\x9F\x98\x80", 0).code, 0x1F600u);
  EXPECT_EQ(CharacterBefore("a\xC3\xA9", 3).code, 0xE9u);
  EXPECT_EQ(CharacterBefore("a\xA9", 2).code, kNoCharacter);
  EXPECT_EQ(ToNfc("e\xCC\x81\xFF"
                  "e\xCC\x81"),
            "\xC3\xA9\xFF\xC3\xA9");
}

TEST(BytePairsTest, TheFirstRuleComesFirstAndTheLeftmostOfItsPlaces) {
  BytePairs pairs;
  pairs.AddMerge(1, 1, 10);
  pairs.AddMerge(10, 2, 11);
  pairs.AddMerge(10, 10, 12);
  const auto merged = [&](Ids ids) {
    pairs.Merge(&ids);
    return ids;
  };
  EXPECT_EQ(merged({1, 1, 1}), (Ids{10, 1}));
  EXPECT_EQ(merged({1, 1, 1, 1}), (Ids{12}));
  EXPECT_EQ(merged({1, 1, 2, 1}), (Ids{11, 1}));
  EXPECT_EQ(merged({1, 1, 1, 1, 2}), (Ids{10, 11}));
  EXPECT_EQ(merged({2}), (Ids{2}));
  EXPECT_EQ(merged({}), Ids());
}

TEST(AddedTokensTest, TheLongestAtTheFirstPlaceIsFound) {
  AddedTokens tokens;
  tokens.Add({.id = 1, .content = "<a>"});
  tokens.Add({.id = 2, .content = "<a>b"});
  tokens.Add({.id = 3, .content = "word", .single_word = true});
  tokens.Add({.id = 4, .content = "<s>", .lstrip = true, .rstrip = true});
  const auto split = [&](std::string_view text) {
    std::string found;
    tokens.Split(text, [&](std::string_view part, const AddedToken* token) {
      found +=
          '[' + (token == nullptr ? "" : std::to_string(token->id) + ":") + std::string(part) + ']';
    });
    return found;
  };
  EXPECT_EQ(split("x<a>bc<a>"), "[x][2:<a>b][c][1:<a>]");
  EXPECT_EQ(split("words word sword"), "[words ][3:word][ sword]");
  EXPECT_EQ(split("a \t<s> \n<s>b"), "[a][4: \t<s> \n][4:<s>][b]");
  EXPECT_EQ(split(""), "");
  EXPECT_EQ(split("<a"), "[<a]");
}

/// A tokenizer.json with all bytes and the merge of "t" and "h".
json SmallJson() {
  json vocab = json::object();
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    std::string text;
    AppendUtf8(printable ? byte : next++, &text);
    vocab[text] = byte;
  }
  vocab["th"] = 256;
  return {{"added_tokens",
           {{{"id", 257}, {"content", "<|endoftext|>"}, {"special", true}, {"normalized", false}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"t h"}}}}};
}

std::shared_ptr<const Tokenizer> Make(const json& file) {
  auto made = Tokenizer::Make(file.dump(), "t.json");
  if (!made.ok()) ADD_FAILURE() << made.status().message();
  return made.ok() ? made.value() : nullptr;
}

Ids Encoded(const Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  EXPECT_TRUE(tokenizer.Encode(text, &ids).ok());
  return ids;
}

/// Every text comes back, whatever its bytes.
void ExpectLossless(const Tokenizer& tokenizer) {
  std::mt19937 draw(1);
  for (int trial = 0; trial < 300; ++trial) {
    std::string text;
    for (uint32_t left = draw() % 200; left > 0; --left) {
      text += trial % 2 == 0 ? static_cast<char>(draw()) : "th'sa1 \n\xC3\xA9"[draw() % 10];
    }
    const Ids ids = Encoded(tokenizer, text);
    for (const uint32_t id : ids) EXPECT_LT(id, tokenizer.vocabulary());
    EXPECT_EQ(tokenizer.Decode(ids), text);
  }
}

TEST(TokenizerTest, BytesAreTheirOwnIds) {
  const auto bytes = Tokenizer::Open("").value();
  EXPECT_EQ(bytes->kind(), "bytes");
  EXPECT_EQ(bytes->vocabulary(), 257);
  EXPECT_EQ(bytes->end_of_text(), 256u);
  EXPECT_EQ(bytes->Digest(), "");
  EXPECT_EQ(Encoded(*bytes, "a\xFF"), (Ids{97, 255}));
  EXPECT_EQ(bytes->Decode(Ids{97, 256, 98}), "ab");
  ExpectLossless(*bytes);
}

TEST(TokenizerTest, ByteLevelBpe) {
  const auto tokenizer = Make(SmallJson());
  EXPECT_EQ(tokenizer->kind(), "byte-level BPE");
  EXPECT_EQ(tokenizer->vocabulary(), 258);
  EXPECT_EQ(tokenizer->end_of_text(), 257u);
  EXPECT_EQ(tokenizer->Digest().size(), 64u);
  EXPECT_EQ(Encoded(*tokenizer, "thet<|endoftext|> h"), (Ids{256, 'e', 't', 257, ' ', 'h'}));
  EXPECT_EQ(tokenizer->Decode(Ids{256, 257, 900}), "th<|endoftext|>");
  ExpectLossless(*tokenizer);
  // Another one on the same thread does not see its words.
  json other = SmallJson();
  other["model"]["merges"] = json::array();
  EXPECT_EQ(Encoded(*Make(other), "th"), (Ids{'t', 'h'}));
  EXPECT_EQ(Encoded(*tokenizer, "th"), (Ids{256}));
}

TEST(TokenizerTest, NormalizersAndPrefixSpaces) {
  json file = SmallJson();
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
  EXPECT_EQ(Encoded(*Make(file), "e\xCC\x81"), (Ids{0xC3, 0xA9}));
  file["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(Encoded(*Make(file), "a<|endoftext|>b"), (Ids{' ', 'a', 257, ' ', 'b'}));
}

TEST(TokenizerTest, WhatIsNotKnownIsRefusedByName) {
  const auto refused = [](const std::string& name, const auto& change) {
    json file = SmallJson();
    change(file);
    const auto made = Tokenizer::Make(file.dump(), "t.json");
    ASSERT_FALSE(made.ok()) << name;
    EXPECT_EQ(made.status().code(), Code::kInvalid);
    EXPECT_EQ(made.status().message().find("t.json: "), 0u) << made.status().message();
    EXPECT_NE(made.status().message().find(name), std::string::npos) << made.status().message();
  };
  refused("WordPiece", [](json& f) { f["model"]["type"] = "WordPiece"; });
  refused("Lowercase", [](json& f) { f["normalizer"] = {{"type", "Lowercase"}}; });
  refused("Split", [](json& f) { f["pre_tokenizer"] = {{"type", "Split"}}; });
  refused("ByteLevel without regex", [](json& f) { f["pre_tokenizer"]["use_regex"] = false; });
  refused("pre_tokenizer", [](json& f) { f["pre_tokenizer"] = nullptr; });
  refused("TemplateProcessing", [](json& f) {
    f["post_processor"] = {{"type", "TemplateProcessing"}};
  });
  refused("WordPiece", [](json& f) { f["decoder"] = {{"type", "WordPiece"}}; });
  refused("dropout", [](json& f) { f["model"]["dropout"] = 0.1; });
  refused("end_of_word_suffix", [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; });
  refused("ignore_merges", [](json& f) { f["model"]["ignore_merges"] = true; });
  refused("byte 97", [](json& f) { f["model"]["vocab"].erase("a"); });
  refused("two tokens", [](json& f) { f["model"]["vocab"]["ab"] = 97; });
  refused("no token", [](json& f) { f["model"]["merges"] = {"a b"}; });
  refused("not two tokens", [](json& f) { f["model"]["merges"] = {"ab"}; });
  refused("another id", [](json& f) { f["added_tokens"][0]["content"] = "a"; });
  refused("empty", [](json& f) { f["added_tokens"][0]["content"] = ""; });
  refused("the id -1", [](json& f) { f["added_tokens"][0]["id"] = -1; });
  refused("the id 1e+100", [](json& f) { f["added_tokens"][0]["id"] = 1e100; });
  refused("no tokenizer.json", [](json& f) { f.erase("model"); });
  refused("no tokenizer.json", [](json& f) { f["model"]["vocab"] = 3; });
  for (const std::string content : {"{", "{}", "\n\x0A\xFF\xFF", "text", " "}) {
    const auto made = Tokenizer::Make(content, "t.json");
    ASSERT_FALSE(made.ok()) << content;
    EXPECT_EQ(made.status().message().find("t.json: "), 0u) << made.status().message();
  }
}

TEST(TokenizerTest, SentencePiece) {
  const std::string text = testing::TempDir() + "sentencepiece.txt";
  std::ofstream file(text);
  for (int i = 0; i < 200; ++i) file << "the small river runs under " << i << " old stones\n";
  file.close();
  for (const std::string type : {"unigram", "bpe"}) {
    std::string model;
    const auto status = sentencepiece::SentencePieceTrainer::Train(
        "--input=" + text + " --vocab_size=320 --byte_fallback=true --model_type=" + type +
            " --normalization_rule_name=identity --remove_extra_whitespaces=false"
            " --hard_vocab_limit=false --minloglevel=2",
        nullptr, &model);
    ASSERT_TRUE(status.ok()) << status.ToString();
    const auto tokenizer = Tokenizer::Make(model, "m.model").value();
    EXPECT_EQ(tokenizer->kind(), "SentencePiece");
    EXPECT_EQ(tokenizer->end_of_text(), 2u);
    EXPECT_EQ(tokenizer->content(), model);
    for (const std::string sample : {"the river", " under  stones ", "n\xC3\xA9w\nline\t", ""}) {
      EXPECT_EQ(tokenizer->Decode(Encoded(*tokenizer, sample)), sample) << type;
    }
    EXPECT_EQ(tokenizer->Decode(Ids{2, 1u << 30}), "");
    EXPECT_LT(Encoded(*tokenizer, " the small river").size(), 16u);
    EXPECT_FALSE(Tokenizer::Make(model.substr(0, model.size() / 2), "m.model").ok());
  }
}

// Goal: a long text, which is encoded in parts, has the library's ids, whatever a model does with
// spaces: also where its pieces reach over them and there can be no parts.
TEST(TokenizerTest, SentencePieceOfLongTexts) {
  const std::string path = testing::TempDir() + "long-sentencepiece.txt";
  std::ofstream file(path);
  for (int i = 0; i < 200; ++i) file << "the small river runs under " << i << " old stones\n";
  file.close();
  std::mt19937_64 draw(1);
  std::string text;
  const std::vector<std::string> words = {"the",        "river", "runs",      "under", "stones",
                                          "17",         "x",     "  of",      "old\n", "\t",
                                          "n\xC3\xA9w", ".",     "river runs"};
  while (text.size() < 20'000) text += words[draw() % words.size()] + " ";
  for (const std::string type : {"unigram", "bpe"}) {
    for (const std::string flags :
         {"", " --add_dummy_prefix=false", " --treat_whitespace_as_suffix=true",
          " --user_defined_symbols=river\xE2\x96\x81runs", " --remove_extra_whitespaces=true",
          " --split_by_whitespace=false"}) {
      std::string model;
      const auto status = sentencepiece::SentencePieceTrainer::Train(
          "--input=" + path + " --vocab_size=330 --byte_fallback=true --model_type=" + type +
              " --hard_vocab_limit=false --minloglevel=2" + flags,
          nullptr, &model);
      ASSERT_TRUE(status.ok()) << status.ToString();
      sentencepiece::SentencePieceProcessor library;
      ASSERT_TRUE(library.LoadFromSerializedProto(model).ok());
      std::vector<int> expected;
      ASSERT_TRUE(library.Encode(text, &expected).ok());
      const auto tokenizer = Tokenizer::Make(model, "m.model").value();
      EXPECT_EQ(Encoded(*tokenizer, text), Ids(expected.begin(), expected.end())) << type << flags;
    }
  }
}

}  // namespace
}  // namespace mf
