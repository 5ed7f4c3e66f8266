// Reads a finished run's tensors from the servers and writes them as one safetensors file (DESIGN
// 8).
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/client/table_client.h"
#include "common/run/tensor_spec.h"
#include "worker/config/config.h"

namespace mf {

/// kAll: whole tensors. kTouched: tables as `<name>.rows` (u64 global rows ever updated, rising)
/// and
/// `<name>.values`, dense tensors whole.
enum class ExportRows { kAll, kTouched };

/// Makes the folder of `path` if it is missing. kInvalid, naming the flag, if no file can be
/// written there.
Status CheckExportPlace(const std::string& flag, const std::string& path);

/// Streams the state at `at` into `path`, which appears by rename. Reading leaves no trace.
Status Export(TableClient& tables, const Config& config, const std::vector<TensorSpec>& tensors,
              FinishedStep at, ExportRows rows, const std::string& path);

}  // namespace mf
