// One line of JSON on stdout, for programs that read what a command finds.
#pragma once

#include <nlohmann/json.hpp>

#include "common/base/status.h"

namespace mf {

/// Prints it and flushes, so that whoever reads a long list sees it grow. Names that are no UTF-8
/// are written with replacement characters: they are no reason to lose the answer.
Status PrintJsonLine(const nlohmann::ordered_json& line);

}  // namespace mf
