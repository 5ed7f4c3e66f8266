// Goal: the pieces of documents are the documents, whatever their length and however they are
// packed; a long one is cut where its ids do not change; damaged files are refused by name.
#include "worker/prepare/text_pieces.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "worker/tokenizer/text_cuts.h"

namespace mf {
namespace {

class TextPiecesTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "text_pieces_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  std::string Write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
    return folder_ + "/" + name;
  }
  static std::string Gzip(const std::string& text) {
    std::string packed(text.size() + 1000, '\0');
    z_stream state{};
    EXPECT_EQ(deflateInit2(&state, 1, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    state.avail_in = static_cast<uInt>(text.size());
    state.next_out = reinterpret_cast<Bytef*>(packed.data());
    state.avail_out = static_cast<uInt>(packed.size());
    EXPECT_EQ(deflate(&state, Z_FINISH), Z_STREAM_END);
    packed.resize(state.total_out);
    deflateEnd(&state);
    return packed;
  }
  static std::string Zstd(const std::string& text) {
    std::string packed(ZSTD_compressBound(text.size()), '\0');
    packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 1));
    return packed;
  }
  /// The documents; fails if a piece is too long or a document does not begin or end.
  static Result<std::vector<std::string>> Documents(const std::vector<std::string>& paths) {
    TextPieces pieces(paths, /*binary=*/false);
    std::vector<std::string> documents;
    bool open = false;
    while (true) {
      Result<std::optional<TextPiece>> piece = pieces.Next();
      if (!piece.ok()) return piece.status();
      if (!piece.value().has_value()) break;
      EXPECT_EQ(piece.value()->begins, !open);
      if (!open) documents.emplace_back();
      documents.back() += piece.value()->bytes;
      open = !piece.value()->ends;
    }
    EXPECT_FALSE(open);
    uint64_t bytes = 0;
    for (const std::string& path : paths) bytes += std::filesystem::file_size(path);
    EXPECT_EQ(pieces.taken(), bytes);
    return documents;
  }

  std::string folder_;
};

TEST_F(TextPiecesTest, DocumentsComeBackHoweverTheyArePacked) {
  std::mt19937 draw(1);
  std::string text;
  while (text.size() < 3 * kTextPartBytes) {
    text += std::string(1 + draw() % 90, static_cast<char>('a' + draw() % 26)) + "\n";
  }
  const std::string lines = "{\"text\": 1}\n\n  \n{\"text\": 2}\r\n{\"text\": 3}";
  const std::vector<std::string> expected = {text, "{\"text\": 1}", "{\"text\": 2}\r",
                                             "{\"text\": 3}", "short"};
  for (const auto& pack : {+[](const std::string& plain) { return plain; }, &Gzip, &Zstd}) {
    const auto found = Documents({Write("a.txt", pack(text)), Write("b.jsonl", pack(lines)),
                                  Write("empty.txt", pack("")), Write("c.txt", pack("short"))});
    ASSERT_TRUE(found.ok()) << found.status().message();
    EXPECT_EQ(found.value(), expected);
  }
  // Members one after the other are one file.
  EXPECT_EQ(Documents({Write("m.txt", Gzip("one ") + Gzip("two"))}).value(),
            std::vector<std::string>{"one two"});
  EXPECT_EQ(Documents({Write("m.txt", Zstd("one ") + Zstd("two"))}).value(),
            std::vector<std::string>{"one two"});
}

TEST_F(TextPiecesTest, LongDocumentsAreCutBetweenOrdinaryLines) {
  std::string text;
  while (text.size() < 2 * kTextPartBytes) text += "a line \n\n  of text.\n\xC3\xA9 x\ny";
  TextPieces pieces({Write("a.txt", text)}, false);
  const std::string first = pieces.Next().value()->bytes, second = pieces.Next().value()->bytes;
  EXPECT_LE(first.size(), kTextPartBytes);
  EXPECT_TRUE(first.ends_with("x\n")) << first.substr(first.size() - 20);
  EXPECT_TRUE(second.starts_with("ya line"));
  // Where there is no such place they are cut all the same, between characters.
  std::string endless;
  while (endless.size() < 40 * kTextPartBytes) endless += "\xE4\xB8\xAD";
  EXPECT_EQ(Documents({Write("b.txt", endless)}).value(), std::vector<std::string>{endless});
  TextPieces cut({Write("b.txt", endless)}, false);
  EXPECT_EQ(cut.Next().value()->bytes.size() % 3, 0u);
}

TEST_F(TextPiecesTest, ZerosBehindPackedDataAreFilling) {
  const std::string text(100'000, 'x');
  const std::string filled = Gzip(text) + std::string(100'000, '\0');
  EXPECT_EQ(Documents({Write("filled", filled)}).value(), std::vector<std::string>{text});
  EXPECT_EQ(Documents({Write("more", filled + Gzip("y"))}).value(),
            std::vector<std::string>{text + "y"});
}

TEST_F(TextPiecesTest, WhatIsDamagedIsRefusedByName) {
  const std::string text(100'000, 'x');
  const auto refused = [&](const std::string& bytes, const std::string& why) {
    const auto found = Documents({Write("bad", bytes)});
    ASSERT_FALSE(found.ok()) << why;
    EXPECT_EQ(found.status().code(), Code::kInvalid);
    EXPECT_EQ(found.status().message().find(folder_ + "/bad: "), 0u) << found.status().message();
    EXPECT_NE(found.status().message().find(why), std::string::npos) << found.status().message();
  };
  const std::string gzip = Gzip(text), zstd = Zstd(text);
  refused(gzip.substr(0, gzip.size() - 5), "ends in the middle");
  refused(zstd.substr(0, zstd.size() - 5), "ends in the middle");
  std::string damaged = gzip;
  damaged[damaged.size() - 6] ^= 1;  // of the checksum
  refused(damaged, "damaged gzip data");
  damaged = zstd;
  damaged[5] ^= 0x55;
  refused(damaged, "zstd data");
  refused("text\0\0\1\2 and bytes" + std::string(100, '\0'), "binary data");
  EXPECT_FALSE(Documents({folder_ + "/missing"}).ok());
}

TEST_F(TextPiecesTest, LinesThatAreNoDocumentAreRefusedInWords) {
  const std::vector<std::pair<std::string, std::string>> lines = {
      {R"({"text": })", "line 7: is no JSON (from byte 10 on)"},
      {R"({"text": "a", "n": 1e999})", "larger than a double"},
      {R"(["text"])", "no JSON object"},
      {R"({"txt": "a"})", "no text \"text\""},
      {R"({"text": 3})", "that is no text"},
  };
  for (const auto& [line, words] : lines) {
    TextPiece piece{.bytes = line, .json = true, .line = 7};
    const Status status = ReadJsonLine("a.jsonl", "text", &piece);
    EXPECT_EQ(status.code(), Code::kInvalid) << line;
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace mf
