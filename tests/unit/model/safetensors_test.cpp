// Goal: a written file reads back bit for bit, its bytes are reproducible, it appears only when it
// is complete, and no damaged file gets past the reader.
#include "worker/export/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace mf {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

class Safetensors : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "safetensors_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }

  void WriteSample(const std::string& path) {
    const std::vector<TensorEntry> entries = {
        {"b", DType::kF32, {3}}, {"a.rows", DType::kU64, {2}}, {"a", DType::kF32, {2, 2}}};
    auto writer = SafetensorsWriter::Create(path, entries, "{\"model\":{}}");
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    const float b[3] = {1, 2, 3};
    const uint64_t rows[2] = {5, uint64_t{1} << 40};
    const float a[4] = {4, 5, 6, 7};
    ASSERT_TRUE(writer.value()->Append(b, 5).ok());  // cut anywhere
    ASSERT_TRUE(writer.value()->Append(reinterpret_cast<const char*>(b) + 5, 7).ok());
    ASSERT_TRUE(writer.value()->Append(rows, sizeof(rows)).ok());
    EXPECT_FALSE(std::filesystem::exists(path));
    ASSERT_TRUE(writer.value()->Append(a, sizeof(a)).ok());
    ASSERT_TRUE(writer.value()->Finish().ok());
  }

  /// A file with this header and so many bytes of data.
  std::string WriteRaw(const std::string& header, size_t data_bytes) {
    std::string text(8, '\0');
    for (int i = 0; i < 8; ++i) text[i] = static_cast<char>(uint64_t{header.size()} >> (8 * i));
    text += header + std::string(data_bytes, '\1');
    std::ofstream(Path("raw"), std::ios::binary) << text;
    return Path("raw");
  }

  std::string folder_;
};

TEST_F(Safetensors, RoundTrip) {
  WriteSample(Path("x"));
  const auto reader = SafetensorsReader::Open(Path("x"));
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  EXPECT_EQ(reader.value()->config_json(), "{\"model\":{}}");
  ASSERT_EQ(reader.value()->tensors().size(), 3u);
  EXPECT_EQ(reader.value()->tensors()[0].entry.name, "b");
  EXPECT_EQ(reader.value()->tensors()[2].entry.name, "a");
  EXPECT_EQ(reader.value()->Find("a")->entry.shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(reader.value()->Find("b")->f32()[2], 3.0f);
  EXPECT_EQ(reader.value()->Find("a")->f32()[3], 7.0f);
  EXPECT_EQ(reader.value()->Find("none"), nullptr);
}

TEST_F(Safetensors, BytesAreReproducibleAndNothingIsLeftOver) {
  WriteSample(Path("x"));
  WriteSample(Path("y"));
  const std::string bytes = ReadAll(Path("x"));
  EXPECT_EQ(bytes, ReadAll(Path("y")));
  const uint64_t header =
      static_cast<unsigned char>(bytes[0]) | static_cast<unsigned char>(bytes[1]) << 8;
  EXPECT_EQ(header % 8, 0u);
  EXPECT_EQ(bytes.size(), 8 + header + 44);
  { auto abandoned = SafetensorsWriter::Create(Path("z"), {{"a", DType::kF32, {1}}}, ""); }
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) ++files;
  EXPECT_EQ(files, 2u);
}

TEST_F(Safetensors, EveryCutIsRefused) {
  WriteSample(Path("x"));
  const std::string bytes = ReadAll(Path("x"));
  for (size_t size = 0; size < bytes.size(); ++size) {
    std::ofstream(Path("cut"), std::ios::binary) << bytes.substr(0, size);
    const auto reader = SafetensorsReader::Open(Path("cut"));
    ASSERT_FALSE(reader.ok()) << size;
    EXPECT_EQ(reader.status().code(), Code::kInvalid);
    EXPECT_NE(reader.status().message().find("cut short"), std::string::npos)
        << reader.status().message();
  }
}

TEST_F(Safetensors, DamagedHeadersAreRefused) {
  struct Case {
    const char* header;
    const char* named;
  };
  const Case cases[] = {
      {"{", "JSON"},
      {"[]", "JSON"},
      {R"({"a":1})", "tensor a: not an object"},
      {R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", "dtype"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "shape"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", "do not agree"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "backwards"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", "pair"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", "agree"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "gap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "no tensor"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "tensor b: overlaps"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       "distinct"},
      {R"({"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}})", "cut short: tensor a"},
      {R"({"__metadata__":1})", "__metadata__"},
  };
  for (const Case& c : cases) {
    const auto reader = SafetensorsReader::Open(WriteRaw(c.header, 8));
    ASSERT_FALSE(reader.ok()) << c.header;
    EXPECT_EQ(reader.status().code(), Code::kInvalid);
    EXPECT_NE(reader.status().message().find(c.named), std::string::npos)
        << reader.status().message();
    EXPECT_NE(reader.status().message().find(Path("raw")), std::string::npos);
  }
  EXPECT_FALSE(SafetensorsReader::Open(folder_).ok());
  EXPECT_FALSE(SafetensorsReader::Open(Path("none")).ok());
}

// Goal: a model in several files is read as if it were one, and an index that does not fit is told.
TEST_F(Safetensors, SeveralFilesWithAnIndex) {
  const auto write = [&](const std::string& name, const std::string& tensor, float value,
                         const std::string& config, const std::string& fingerprint = "f") {
    const std::vector<TensorEntry> entries = {{tensor, DType::kF32, {1}}};
    const auto writer =
        SafetensorsWriter::Create(Path(name), entries, config, {{"fingerprint", fingerprint}});
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    ASSERT_TRUE(writer.value()->Append(&value, sizeof(value)).ok());
    ASSERT_TRUE(writer.value()->Finish().ok());
  };
  const auto index = [&](const std::string& text) {
    std::ofstream(Path("model.safetensors.index.json")) << text;
  };
  const auto refused = [&](const std::string& named) {
    const auto reader = SafetensorsReader::Open(folder_);
    ASSERT_FALSE(reader.ok()) << named;
    EXPECT_EQ(reader.status().code(), Code::kInvalid);
    EXPECT_NE(reader.status().message().find(named), std::string::npos)
        << reader.status().message();
  };
  write("one", "a", 1, "{}");
  write("two", "b", 2, "{}");
  const std::string both = R"({"metadata":{},"weight_map":{"b":"two","a":"one"}})";
  index(both);
  const auto reader = SafetensorsReader::Open(folder_);
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  EXPECT_EQ(reader.value()->tensors().size(), 2u);
  EXPECT_EQ(reader.value()->Find("a")->f32()[0], 1.0f);
  EXPECT_EQ(reader.value()->Find("b")->f32()[0], 2.0f);
  EXPECT_EQ(reader.value()->config_json(), "{}");

  write("two", "a", 2, "{}");
  refused("two: tensor a is in another file");
  write("two", "b", 2, R"({"other":1})");
  refused("two: describes another model than " + Path("one"));
  write("two", "b", 2, "");
  refused("two: describes another model than " + Path("one") + ": it has no __metadata__.config");
  write("two", "b", 2, "{}", "g");
  refused("two: is of another export than " + Path("one"));
  std::filesystem::remove(Path("two"));
  refused("two");
  for (const auto& [text, named] :
       {std::pair{"", "not a JSON object"}, std::pair{"[1]", "not a JSON object"},
        std::pair{"{}", "no weight_map"}, std::pair{R"({"weight_map":{}})", "no weight_map"},
        std::pair{R"({"weight_map":{"a":1}})", "does not name files"},
        std::pair{R"({"weight_map":{"a":"../one"}})", "not beside it: ../one"},
        std::pair{R"({"weight_map":{"a":"one\u0000x"}})", "not beside it: one"}}) {
    index(text);
    refused(named);
  }
  const auto of_index = SafetensorsReader::Open(Path("model.safetensors.index.json"));
  EXPECT_NE(of_index.status().message().find("name its folder"), std::string::npos);
}

TEST_F(Safetensors, HalfPrecisionAndAnyAlignmentAreRead) {
  // The header's length, 8 + n, decides where the numbers lie.
  for (const char* const padding : {"", " ", "  ", "   "}) {
    const std::string header =
        std::string(R"({"h":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},)"
                    R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},)"
                    R"("f":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})") +
        padding;
    const std::string path = WriteRaw(header, 0);
    // 1.5, -2^-24 (the smallest), infinity, 65504; 1.5 and -3 as bf16; 1.5
    const unsigned char data[] = {0x00, 0x3E, 0x01, 0x80, 0x00, 0x7C, 0xFF, 0x7B,
                                  0xC0, 0x3F, 0x40, 0xC0, 0x00, 0x00, 0xC0, 0x3F};
    std::ofstream(path, std::ios::binary | std::ios::app)
        .write(reinterpret_cast<const char*>(data), sizeof(data));
    const auto reader = SafetensorsReader::Open(path);
    ASSERT_TRUE(reader.ok()) << reader.status().message();
    float h[4], b[2], f[1];
    reader.value()->Find("h")->CopyF32(h);
    reader.value()->Find("b")->CopyF32(b);
    reader.value()->Find("f")->CopyF32(f);
    EXPECT_EQ(h[0], 1.5f);
    EXPECT_EQ(h[1], -0x1p-24f);
    EXPECT_TRUE(std::isinf(h[2]) && h[2] > 0);
    EXPECT_EQ(h[3], 65504.0f);
    EXPECT_EQ(b[0], 1.5f);
    EXPECT_EQ(b[1], -3.0f);
    EXPECT_EQ(f[0], 1.5f);
    const bool aligned = (8 + header.size()) % 4 == 0;
    EXPECT_EQ(reader.value()->Find("f")->f32() != nullptr, aligned) << header.size();
    EXPECT_EQ(reader.value()->Find("h")->f32(), nullptr);
  }
}

TEST_F(Safetensors, ShapesAreChecked) {
  WriteSample(Path("x"));
  const auto reader = SafetensorsReader::Open(Path("x"));
  ASSERT_TRUE(reader.ok());
  TensorSpec a, b;
  a.name = "a";
  a.shape = {2, 2};
  b.name = "b";
  b.shape = {4};
  const Status wrong = reader.value()->CheckTensors({a, b});
  EXPECT_NE(wrong.message().find("tensor b: shape is [3], its configuration says [4]"),
            std::string::npos)
      << wrong.message();
  b.shape = {3};
  EXPECT_NE(reader.value()->CheckTensors({a, b}).message().find("a.rows is not part"),
            std::string::npos);
  TensorSpec c;
  c.name = "c";
  EXPECT_NE(reader.value()->CheckTensors({a, b, c}).message().find("c is missing"),
            std::string::npos);
}

TEST_F(Safetensors, RefusesAPlaceThatCanNotBeWritten) {
  WriteSample(Path("x"));
  const auto writer = SafetensorsWriter::Create(Path("x") + "/y", {}, "");
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.status().code(), Code::kInvalid);
}

TEST_F(Safetensors, VersionsOfItsConfiguration) {
  const auto open = [this](const std::string& metadata) {
    return SafetensorsReader::Open(WriteRaw("{\"__metadata__\":{" + metadata + "}}", 0));
  };
  WriteSample(Path("x"));
  EXPECT_EQ(ReadAll(Path("x")).find("version"), std::string::npos);  // the first has no number
  EXPECT_TRUE(open(R"("config":"{}","config_version":"1")").ok());
  EXPECT_EQ(open(R"("config":7,"config_version":"2")").status().message(),
            Path("raw") +
                ": export format 2: written by a newer version, update this program (it reads 1)");
  for (const char* bad : {"2", "\"\"", "\"two\"", "\"2 \"", "\"-1\"", "null"}) {
    EXPECT_FALSE(open(R"("config":"{}","config_version":)" + std::string(bad)).ok()) << bad;
  }
  EXPECT_TRUE(open(R"("config_version":"9","format":"pt")").ok());  // another program's
}

}  // namespace
}  // namespace mf
