#include "worker/python/native/python_run.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/base/address.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "worker/initial/bring_rows.h"

namespace mf {
namespace {

constexpr double kStoppingDeadlineSeconds = 5;

/// Rows of tensors, one tensor after the other.
class GivenRows final : public RowSource {
 public:
  explicit GivenRows(std::vector<InitialTensor> tensors) : tensors_(std::move(tensors)) {
    std::erase_if(tensors_, [](const InitialTensor& tensor) { return tensor.count == 0; });
    std::sort(tensors_.begin(), tensors_.end(),
              [](const auto& a, const auto& b) { return a.tensor < b.tensor; });
  }

  uint64_t total_rows() const override {
    return std::accumulate(
        tensors_.begin(), tensors_.end(), uint64_t{0},
        [](uint64_t sum, const InitialTensor& tensor) { return sum + tensor.count; });
  }
  Status Begin(const RunDescription& of) override {
    of_ = &of;
    position_ = row_ = 0;
    return Status::Ok();
  }
  Result<bool> Next(RowStates* rows) override {
    if (position_ == tensors_.size()) return false;
    const InitialTensor& tensor = tensors_[position_];
    const TensorSpec& spec = of_->tensors[tensor.tensor];
    const int64_t blocks = of_->rules.column_blocks;
    const uint64_t count = std::min(RowsAtOnce(spec, blocks), tensor.count - row_);
    *rows = {.tensor = tensor.tensor};
    if (tensor.rows != nullptr) {
      rows->rows.assign(tensor.rows + row_, tensor.rows + row_ + count);
    } else {
      rows->rows.resize(count);
      std::iota(rows->rows.begin(), rows->rows.end(), row_);
    }
    rows->states =
        StatesOf(spec, blocks, tensor.values + row_ * static_cast<uint64_t>(spec.columns), count);
    row_ += count;
    if (row_ == tensor.count) {
      ++position_;
      row_ = 0;
    }
    return true;
  }
  const std::vector<double>& rates() const override { return no_rates_; }

 private:
  std::vector<InitialTensor> tensors_;
  const RunDescription* of_ = nullptr;
  size_t position_ = 0;
  uint64_t row_ = 0;
  const std::vector<double> no_rates_ = {};
};

}  // namespace

Result<std::unique_ptr<PythonRun>> PythonRun::Open(Options options) {
  MF_RETURN_IF_ERROR(SetUpLogging(options.log));
  MF_RETURN_IF_ERROR(options.run.Check());
  std::unique_ptr<PythonRun> run(new PythonRun());
  const bool embedded = options.servers.empty();
  std::vector<std::string> addresses;
  if (!embedded) {
    MF_ASSIGN_OR_RETURN(addresses, ParseServers("servers", options.servers));
  }
  const int64_t shards =
      embedded ? options.embedded.shards : static_cast<int64_t>(addresses.size());
  MF_RETURN_IF_ERROR(CheckShards(options.run, shards));
  if (embedded) {
    if (options.embedded.memory_bytes == 0) options.embedded.memory_bytes = DefaultTableBytes();
    MF_ASSIGN_OR_RETURN(run->embedded_, EmbeddedServers::Start(run->context_, options.embedded));
    addresses = run->embedded_->addresses();
    MF_ASSIGN_OR_RETURN(auto transport, ConnectZmq(run->context_, addresses, nullptr));
    Client::Options client{.deadline_seconds = options.deadline_seconds};
    run->own_client_ = std::make_unique<Client>(std::move(transport), addresses, client);
    run->client_ = run->own_client_.get();
  } else {
    MF_ASSIGN_OR_RETURN(run->connection_,
                        Connect(addresses, options.keys, options.deadline_seconds));
    run->client_ = run->connection_->client.get();
  }
  Session::Callbacks callbacks;
  callbacks.on_step = [it = run.get()](const StepRecord& record) {
    MutexLock lock(it->mutex_);
    it->records_.push_back(record);
    return Status::Ok();
  };
  run->session_ =
      std::make_unique<Session>(*run->client_, std::move(options.run), std::move(callbacks));
  run->lane_ = run->session_->NewLane();
  return run;
}

PythonRun::~PythonRun() {
  lane_.reset();
  session_.reset();
  own_client_.reset();
  connection_.reset();
}

Status PythonRun::Join(const std::vector<InitialTensor>& tensors) {
  MF_RETURN_IF_ERROR(session_->Join());
  if (run().initial.empty()) return Status::Ok();
  GivenRows source(tensors);
  return BringRows(
      source, *client_, run(),
      {.join = [this] { return session_->Join(); }, .stopped = [this] { return stopped_.load(); }});
}

void PythonRun::Stop() {
  stopped_.store(true);
  session_->Stop();
  client_->LimitDeadlines(kStoppingDeadlineSeconds);
}

std::vector<StepRecord> PythonRun::TakeRecords() {
  MutexLock lock(mutex_);
  return std::exchange(records_, {});
}

}  // namespace mf
