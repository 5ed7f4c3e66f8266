// A model at the servers of its run, as LoadedModel is one from an export: dense tensors are read
// once, memory layers are asked of the servers, so that tables may be larger than this machine. It
// reads as an observer: nothing is left behind, and no worker waits for it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/client/reader.h"
#include "common/client/table_client.h"
#include "common/run/run_description.h"
#include "worker/config/config.h"
#include "worker/exchange/exchange.h"
#include "worker/export/tensor_reader.h"
#include "worker/model/model.h"

namespace mf {

class ServerModel final : public TensorReader, public Exchange {
 public:
  /// The newest state of the run at the servers `addresses`, all in shard order; `keys` as of
  /// Connect(). kInvalid if it is of no language model; kFailed or the servers' own code, naming
  /// the server, if one is not there, has no run, or another one than the others.
  static Result<std::unique_ptr<ServerModel>> Open(const std::vector<std::string>& addresses,
                                                   const std::string& keys);

  const Config& config() const { return config_; }
  const std::vector<TensorSpec>& tensors() const { return run().tensors; }
  const std::shared_ptr<const DenseTensors>& dense() const { return dense_; }
  uint64_t step() const { return reader_->at().step; }

  /// Servers have the newest state only, so while a run goes on the state of this model goes, too,
  /// and what is asked of it fails. True if `error` says that: then this is now the newest state,
  /// of the same run.
  Result<bool> TakeNewest(const Status& error);

  Status ReadRange(const TensorSpec& tensor, uint64_t first, uint64_t count,
                   float* values) override;
  Status ReadRows(const TensorSpec& tensor, const std::vector<uint64_t>& rows,
                  float* values) override;
  Result<std::vector<uint64_t>> UpdatedRows(const TensorSpec& tensor, uint64_t first,
                                            uint64_t most) override;

  Status Forward(const TensorSpec& tensor, const Hashes& hashes, float* y) override;
  /// kFailed: an observer does not train.
  Status Backward(const TensorSpec& tensor, const Hashes& hashes, const Buffer& dy,
                  float* dweights) override;

 private:
  ServerModel() = default;
  const RunDescription& run() const { return reader_->run(); }
  /// The first failure of several calls, once all have ended.
  static Status WaitForAll(std::vector<Pending>& calls);
  Status ReadDense();
  Status ReadNewest();
  /// Reader::Read, Explained().
  Status Ask(const std::function<Status()>& call);
  /// With what to do about it, if the state has gone.
  static Status Explained(Status status);

  std::unique_ptr<Reader> reader_;
  Config config_;
  std::shared_ptr<const DenseTensors> dense_;
};

}  // namespace mf
