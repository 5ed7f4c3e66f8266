// A fuzzer's input for a server: messages of two peers, with the time that passes between them.
//   u8 setting, then per message: u8 control, u8 frames, then per frame: u16 bytes, the bytes
// Any bytes are a script; what is cut short ends it. All numbers are little-endian.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/buffer.h"

namespace mf::fuzz {

/// Bits of ScriptMessage::control.
enum Control : uint8_t {
  kSecondPeer = 1,
  kSessionAsSent = 2,  // else it is the one that the server gave the peer, which nobody can guess
  kTimeMask = 12,      // index into kSecondsBefore, times 4
  kWriterWaits = 16,   // a snapshot that is being written is not done with yet
  kDiskIsFull = 32,
  kServerEnds = 64,
};
inline constexpr double kSecondsBefore[] = {0, 0.1, 2, 100};

struct ScriptMessage {
  uint8_t control = 0;
  std::vector<std::string> frames;
};

struct Script {
  uint8_t setting = 0;  // of server_case.h
  std::vector<ScriptMessage> messages;
};

Script ParseScript(std::string_view text);
std::string ScriptText(const Script& script);

/// Frames with memory of exactly their size, so that a sanitizer sees a read beyond their end.
Frames FramesOf(const ScriptMessage& message);
ScriptMessage MessageOf(const Frames& frames, uint8_t control = 0);

}  // namespace mf::fuzz
