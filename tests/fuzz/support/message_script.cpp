#include "tests/fuzz/support/message_script.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace mf::fuzz {
namespace {

constexpr size_t kFramesMax = 15;  // one more than any message has, and some
constexpr size_t kFrameBytesMax = UINT16_MAX;

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}
  bool done() const { return text_.empty(); }
  uint8_t Byte() {
    const std::string_view byte = Bytes(1);
    return byte.empty() ? 0 : static_cast<uint8_t>(byte[0]);
  }
  std::string_view Bytes(size_t count) {
    const std::string_view bytes = text_.substr(0, count);
    text_.remove_prefix(bytes.size());
    return bytes;
  }

 private:
  std::string_view text_;
};

}  // namespace

Script ParseScript(std::string_view text) {
  Reader reader(text);
  Script script;
  script.setting = reader.Byte();
  while (!reader.done()) {
    ScriptMessage& message = script.messages.emplace_back();
    message.control = reader.Byte();
    const size_t frames = reader.Byte() % (kFramesMax + 1);
    while (message.frames.size() < frames && !reader.done()) {
      const size_t low = reader.Byte(), high = reader.Byte();
      message.frames.emplace_back(reader.Bytes(low | high << 8));
    }
  }
  return script;
}

std::string ScriptText(const Script& script) {
  std::string text(1, static_cast<char>(script.setting));
  for (const ScriptMessage& message : script.messages) {
    const size_t frames = std::min(message.frames.size(), kFramesMax);
    text += static_cast<char>(message.control);
    text += static_cast<char>(frames);
    for (size_t i = 0; i < frames; ++i) {
      const size_t bytes = std::min(message.frames[i].size(), kFrameBytesMax);
      text += static_cast<char>(bytes & 0xFF);
      text += static_cast<char>(bytes >> 8);
      text.append(message.frames[i], 0, bytes);
    }
  }
  return text;
}

Frames FramesOf(const ScriptMessage& message) {
  Frames frames;
  for (const std::string& bytes : message.frames) {
    const std::shared_ptr<char[]> memory(new char[bytes.size()]);
    std::copy(bytes.begin(), bytes.end(), memory.get());
    frames.emplace_back(memory, memory.get(), bytes.size());
  }
  return frames;
}

ScriptMessage MessageOf(const Frames& frames, uint8_t control) {
  ScriptMessage message{.control = control, .frames = {}};
  for (const Frame& frame : frames) {
    message.frames.emplace_back(frame.as<char>(), frame.size());
  }
  return message;
}

}  // namespace mf::fuzz
