#include "worker/commands/json_line.h"

#include <cstdio>

#include "common/base/run_program.h"

namespace mf {

Status PrintJsonLine(const nlohmann::ordered_json& line) {
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  std::printf("%s\n", line.dump(-1, ' ', false, kReplace).c_str());
  return FlushOutput();
}

}  // namespace mf
