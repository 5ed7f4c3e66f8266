// Examples of a zero-shot task: contexts, and the texts that may continue them. A file of JSON
// lines, each
//   {"context": "text", "choices": ["text", ...], "answer": N}
// where N counts from 0. "context" may also be a list, one for each choice, as WinoGrande needs it.
// Of a single choice it is asked whether the model would write it by itself, as LAMBADA does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace mf {

struct TaskExample {
  std::vector<std::string> contexts;  // one for each choice
  std::vector<std::string> choices;
  size_t answer = 0;
  uint64_t line = 0;  // of the file, from 1
};

/// All examples of `path`, a file of JSON lines (.jsonl; packed by gzip or zstd, too). kInvalid,
/// naming file and line, for what is none; kInvalid for a file without any.
Result<std::vector<TaskExample>> ReadTask(const std::string& path);

}  // namespace mf
