#include "tests/fuzz/support/sign_digest.h"

#include <nlohmann/json.hpp>

#include "common/base/digest.h"

namespace mf::fuzz {

std::string SignDigest(const std::string& text) {
  using nlohmann::json;
  constexpr auto kReplace = json::error_handler_t::replace;
  // The library writes by recursion: what is deep is not written.
  constexpr int kDepthMax = 16;
  bool flat = true;
  const auto watch = [&](int depth, json::parse_event_t, json&) {
    return flat &= depth <= kDepthMax;
  };
  json root = json::parse(text, watch, /*allow_exceptions=*/false);
  if (!flat || !root.is_object()) return text;
  root.erase("sha256");
  root["sha256"] = Sha256Hex(root.dump(-1, ' ', false, kReplace));
  return root.dump(1, ' ', false, kReplace) + "\n";
}

}  // namespace mf::fuzz
