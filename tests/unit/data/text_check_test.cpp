// Goal: what is text and what is not is decided as if the file were looked at byte by byte, however
// it is cut, and what is not is named.
#include "worker/data/text_check.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace mf {
namespace {

std::string FaultOf(const std::string& text, size_t piece = 1 << 20) {
  TextCheck check;
  for (size_t at = 0; at < text.size(); at += piece) {
    check.Update(text.data() + at, std::min(piece, text.size() - at));
  }
  return check.Fault();
}

/// The plain rule: one character after the other.
bool IsText(const std::string& text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  size_t strange = 0;
  for (size_t at = 0; at < text.size();) {
    const unsigned char c = byte(at);
    if (c == 0) return false;
    size_t length = c < 0x80                ? 1
                    : c >= 0xC2 && c < 0xE0 ? 2
                    : c >= 0xE0 && c < 0xF0 ? 3
                    : c >= 0xF0 && c < 0xF5 ? 4
                                            : 0;
    for (size_t i = 1; i < length; ++i) {
      if ((byte(at + i) & 0xC0) != 0x80) length = 0;
    }
    strange += length == 0 || (c < 32 && std::strchr("\t\n\v\f\r\b\x1b", c) == nullptr);
    at += std::max<size_t>(length, 1);
  }
  return strange * 10 <= text.size();
}

TEST(TextCheck, DecidesAsByteByByteHoweverItIsCut) {
  std::mt19937 random(1);
  const std::string parts[] = {
      "a small river ", "caf\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",  "\n", "\t", "\x01",
      "\xff",           "\xc3",        "\xe2\x82",     std::string(1, '\0')};
  for (int trial = 0; trial < 3000; ++trial) {
    const size_t kinds = 1 + random() % std::size(parts);
    std::string text;
    for (size_t i = random() % 60; i > 0; --i) {
      text += parts[random() % 3 == 0 ? random() % kinds : random() % 5];
    }
    const bool is_text = IsText(text);
    for (const size_t piece : {size_t{1}, size_t{2}, size_t{7}, size_t{8}, size_t{1000}}) {
      EXPECT_EQ(FaultOf(text, piece).empty(), is_text) << trial << " " << piece;
    }
  }
}

TEST(TextCheck, TellsAllPlacesAtOnce) {
  std::string text(1000, 'x');
  text[17] = text[400] = text[912] = '\0';
  EXPECT_EQ(FaultOf(text), "3 NUL bytes (byte 17, 400, 912)");
  EXPECT_EQ(FaultOf(text, 100), "3 NUL bytes (byte 17, 400, 912)");
  text[400] = text[912] = 'x';
  EXPECT_EQ(FaultOf(text), "1 NUL byte (byte 17)");
  for (int i = 0; i < 50; ++i) text[20 + 10 * i] = '\0';
  EXPECT_EQ(FaultOf(text), "51 NUL bytes (byte 17, 20, 30, 40, 50, 60, ...)");
  EXPECT_NE(FaultOf(std::string(50, 'x') + std::string(50, '\xff')).find("50 places"),
            std::string::npos);
}

TEST(TextCheck, NamesEncodingsAndFormats) {
  const std::string words = "the small river runs under old stones";
  std::string little, big, wide;
  for (const char c : words) {
    little += {c, '\0'};
    big += {'\0', c};
    wide += {c, '\0', '\0', '\0'};
  }
  const auto expect = [](const std::string& text, const char* named) {
    EXPECT_NE(FaultOf(text).find(named), std::string::npos) << FaultOf(text);
  };
  expect(little, "iconv -f UTF-16LE");
  expect(big, "iconv -f UTF-16BE");
  expect("\xff\xfe" + little, "iconv -f UTF-16 ");
  expect("\xfe\xff" + big, "iconv -f UTF-16 ");
  expect(wide, "iconv -f UTF-32");
  const std::string noise("\0\1\2\3\xff\xfe\0\x81", 8);
  expect("\x1f\x8b\x08" + noise, "gzip");
  expect("PK\x03\x04" + noise, "zip archive");
  expect("PAR1" + noise, "Parquet");
  EXPECT_EQ(FaultOf("PAR1 is how such a file begins, and this is text"), "");
  EXPECT_EQ(FaultOf("\xef\xbb\xbfwith a mark"), "");
  EXPECT_EQ(FaultOf(""), "");
}

}  // namespace
}  // namespace mf
