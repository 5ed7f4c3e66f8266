// Writes a run's tensors, as the servers or their snapshots have them, as one safetensors file
// (DESIGN 8).
#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/client/table_client.h"
#include "common/run/tensor_spec.h"
#include "worker/config/config.h"
#include "worker/export/safetensors.h"
#include "worker/export/tensor_reader.h"

namespace mf {

/// kAll: whole tensors. kTouched: tables as `<name>.rows` (u64 global rows ever updated, rising)
/// and
/// `<name>.values`, dense tensors whole.
enum class ExportRows { kAll, kTouched };

enum class OutputKind { kModel, kPlot };

/// Makes the folder of `path` if it is missing. kInvalid, naming the flag, if no file can be
/// written there, or something is there that is no file of this kind.
Status CheckExportPlace(const std::string& flag, const std::string& path, OutputKind kind);

/// The servers' tables after the finished step `at`. Reading leaves no trace.
class ServerTensors final : public TensorReader {
 public:
  /// `tables` outlives it.
  ServerTensors(TableClient& tables, FinishedStep at) : tables_(tables), at_(at) {}
  Status ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                   float* values) override;
  Status ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                  float* values) override;
  Result<std::vector<uint64_t>> UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                            uint64_t most) override;

 private:
  TableClient& tables_;
  const FinishedStep at_;
};

/// Appends a whole tensor, f32, in pieces.
Status AppendWhole(TensorReader& reader, const TensorSpec& tensor, SafetensorsWriter& writer);

/// Streams the tensors into `path`, which appears by rename.
Status Export(TensorReader& reader, const Config& config, const std::vector<TensorSpec>& tensors,
              ExportRows rows, const std::string& path);

}  // namespace mf
