#include "worker/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "common/base/logging.h"
#include "common/client/lease_work.h"
#include "worker/compute/cpu/embedding.h"

namespace mf {
namespace {

constexpr auto kRetryPause = std::chrono::milliseconds(50);
constexpr std::chrono::duration<double> kIdle(60);  // of the renewer when nothing is leased

std::chrono::steady_clock::time_point After(std::chrono::duration<double> wait) {
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<std::chrono::steady_clock::duration>(wait);
}

}  // namespace

struct Trainer::Lane {
  Compute::Workspace& workspace;
  ComputeGate gate = {};  // its own, where lanes need not take turns
  TokenBatch batch = {};
  Compute::Gradients gradients = {};
  std::vector<float> logprobs = {};
};

ComputeGate& Trainer::Gate(Lane& lane) { return compute_.one_at_a_time() ? gate_ : lane.gate; }

Trainer::Trainer(const Config& config, const std::vector<TensorSpec>& tensors,
                 const BatchSource& data, Client& client, Compute& compute, ThreadPool& pool,
                 Options options)
    : config_(config),
      tensors_(tensors),
      data_(data),
      client_(client),
      options_(std::move(options)),
      tables_(client, config, tensors),
      compute_(compute),
      pool_(pool) {}

Trainer::~Trainer() = default;

Status Trainer::MakeWorkspaces() {
  while (workspaces_.size() < static_cast<size_t>(config_.exchange.in_flight)) {
    MF_ASSIGN_OR_RETURN(auto workspace, compute_.NewWorkspace());
    workspaces_.push_back(std::move(workspace));
  }
  return Status::Ok();
}

Status Trainer::Join() {
  std::lock_guard lock(join_mutex_);
  MF_RETURN_IF_ERROR(MakeWorkspaces());
  std::vector<Request> hellos(client_.servers());
  for (size_t server = 0; server < hellos.size(); ++server) {
    hellos[server].op = Op::kHello;
    hellos[server].shard = static_cast<uint32_t>(server);
    hellos[server].shards = static_cast<uint32_t>(hellos.size());
    hellos[server].run_id = options_.run_id;
    hellos[server].text = CanonicalJson(config_);
  }
  Client::Outcome outcome = client_.CallAll(std::move(hellos)).get();
  if (!outcome.ok()) return outcome.status();
  if (!incarnations_.empty() && incarnations_[0] != (*outcome)[0].incarnation) {
    // Another board, whose epochs may begin anew if its folder was emptied.
    {
      std::lock_guard records_lock(records_mutex_);
      records_ = RecordCursor();
    }
    std::lock_guard parameters_lock(parameters_mutex_);
    parameters_.reset();
    compute_.Forget();
  }
  incarnations_.clear();
  for (size_t server = 0; server < outcome->size(); ++server) {
    client_.SetSession(server, (*outcome)[server].session);
    incarnations_.push_back((*outcome)[server].incarnation);
  }
  return Status::Ok();
}

Status Trainer::Run() {
  std::thread renewer([this] { RenewLeases(); });
  std::vector<std::thread> lanes;
  for (const auto& workspace : workspaces_) {
    lanes.emplace_back([this, &workspace] { RunLane(*workspace); });
  }
  for (std::thread& lane : lanes) lane.join();
  {
    std::lock_guard lock(state_mutex_);
    renewer_stops_ = true;
    wake_renewer_.notify_all();
  }
  renewer.join();
  return failure_;
}

void Trainer::Stop() { stopping_.store(true); }

void Trainer::Fail(const Status& status) {
  std::lock_guard lock(state_mutex_);
  if (failure_.ok()) failure_ = status;
  stopping_.store(true);
}

Result<Reply> Trainer::AskForWork() {
  Request ask;
  ask.op = Op::kLease;
  {
    std::lock_guard lock(records_mutex_);
    records_.Tell(&ask);
  }
  {
    std::lock_guard lock(join_mutex_);
    ask.incarnations = incarnations_;
  }
  Client::Outcome outcome = client_.Call(0, std::move(ask)).get();
  if (!outcome.ok()) return outcome.status();
  return std::move((*outcome)[0]);
}

void Trainer::RunLane(Compute::Workspace& workspace) {
  Lane lane{workspace};
  while (!stopping_.load()) {
    Result<Reply> lease = AskForWork();
    bool news = false;
    Status status = lease.ok() ? TakeRecords(*lease, &news) : lease.status();
    if (status.ok()) {
      if (lease->work == Work::kWait) continue;
      if (lease->work == Work::kFailed) return Fail(Status::Failed(lease->text));
      if (lease->work == Work::kFinished) {
        if (news) continue;  // there may be more
        std::lock_guard lock(state_mutex_);
        finished_ = {lease->epoch, static_cast<uint64_t>(config_.train.steps)};
        return;
      }
      status = WorkUnderLease(*lease, lane);
    }
    if (status.ok()) continue;
    if (!WorkIsOver(status.code())) return Fail(status);
    spdlog::info("going on after: {}", status.message());
    std::this_thread::sleep_for(kRetryPause);
    if (status.code() == Code::kNotJoined) {
      // A server was restarted, and does not know us any more.
      if (const Status joined = Join(); !joined.ok()) return Fail(joined);
    }
  }
}

/// Does the work while the lease is renewed; what could not be done is given back.
Status Trainer::WorkUnderLease(const Reply& lease, Lane& lane) {
  {
    std::lock_guard lock(state_mutex_);
    // A third of the lease: two renewals may be lost.
    const std::chrono::duration<double> between(lease.lease_seconds / 3);
    leases_[lease.lease] = {between, After(between)};
    leases_changed_ = true;
  }
  wake_renewer_.notify_all();
  const Status status = DoWork(lease, lane);
  {
    std::lock_guard lock(state_mutex_);
    leases_.erase(lease.lease);
  }
  if (!status.ok() && WorkIsOver(status.code()))
    client_.Call(0, BoardRequest(Op::kGiveBack, lease));
  return status;
}

Status Trainer::DoWork(const Reply& lease, Lane& lane) {
  switch (lease.work) {
    case Work::kMicroBatch:
      return TrainMicroBatch(lease, lane);
    case Work::kCommit:
      return Commit(lease);
    case Work::kEvaluate:
      return Evaluate(lease, lane);
    case Work::kRecover:
      return Recover(lease);
    default:
      return Status::Failed("the board leased an unknown kind of work");
  }
}

Status Trainer::TakeRecords(const Reply& lease, bool* news) {
  std::lock_guard lock(records_mutex_);
  for (const StepRecord& record : records_.Take(lease)) {
    *news = true;
    if (options_.on_step) MF_RETURN_IF_ERROR(options_.on_step(record));
  }
  return Status::Ok();
}

Status Trainer::Tell(Request request) {
  Client::Outcome outcome = client_.Call(0, std::move(request)).get();
  return outcome.ok() ? Status::Ok() : outcome.status();
}

Result<std::shared_ptr<const DenseTensors>> Trainer::Parameters(StepRef at) {
  std::lock_guard lock(parameters_mutex_);  // the other lanes wait for the one that pulls
  if (parameters_ != nullptr && parameters_at_.epoch == at.epoch &&
      parameters_at_.step == at.step) {
    return parameters_;
  }
  auto parameters = std::make_shared<DenseTensors>(tensors_.size());
  std::vector<Pending> pulls;
  for (const TensorSpec& tensor : tensors_) {
    if (tensor.kind != TensorKind::kDense) continue;
    std::vector<float>& values = (*parameters)[tensor.id];
    values.resize(tensor.total_rows() * static_cast<size_t>(tensor.columns));
    pulls.push_back(tables_.PullRange(at, tensor, 0, tensor.total_rows(), values.data()));
  }
  Status status;
  for (Pending& pull : pulls) {
    if (Status pulled = pull.Wait(); status.ok()) status = pulled;
  }
  if (!status.ok()) return status;
  parameters_ = parameters;
  parameters_at_ = at;
  return parameters_;
}

void Trainer::PushDense(StepRef at, const Reply& lease, const TokenBatch& batch,
                        const Compute::Gradients& gradients, std::vector<Pending>* pending) {
  for (const TensorSpec& tensor : tensors_) {
    if (tensor.kind != TensorKind::kDense) continue;
    const float* gradient = gradients[tensor.id].data();
    // Of the embedding only the rows that occur have a gradient.
    pending->push_back(tensor.name == "embed.weight"
                           ? tables_.Push(at, lease.micro_batch, tensor,
                                          DistinctTokens(batch.inputs), {}, gradient)
                           : tables_.PushWhole(at, lease.micro_batch, tensor, gradient));
  }
}

Status Trainer::TrainMicroBatch(const Reply& lease, Lane& lane) {
  const StepRef at{lease.epoch, lease.step};
  MF_ASSIGN_OR_RETURN(const auto parameters, Parameters({lease.epoch, lease.step - 1}));
  MF_RETURN_IF_ERROR(
      data_.TrainBatch(static_cast<int64_t>(lease.step), lease.micro_batch, &lane.batch));
  const double tokens_per_step = static_cast<double>(config_.train.micro_batches) *
                                 static_cast<double>(config_.tokens_per_micro_batch());
  double loss_sum = 0;
  std::vector<Pending> pushes;
  {
    ComputeGate& gate = Gate(lane);
    std::lock_guard computing(gate);
    RemoteExchange exchange(tables_, config_, pool_, gate, at, Access::kTraining,
                            lease.micro_batch);
    std::unique_ptr<Exchange> wrapped;
    if (options_.wrap_exchange) wrapped = options_.wrap_exchange(exchange, at, lease.micro_batch);
    MF_RETURN_IF_ERROR(compute_.Train(parameters, lane.batch, 1.0 / tokens_per_step,
                                      wrapped ? *wrapped : exchange, lane.workspace, &loss_sum,
                                      &lane.gradients));
    PushDense(at, lease, lane.batch, lane.gradients, &pushes);
    MF_RETURN_IF_ERROR(exchange.Finish());
  }
  for (Pending& push : pushes) MF_RETURN_IF_ERROR(push.Wait());
  Request done = BoardRequest(Op::kMicroBatchDone, lease);
  done.value = loss_sum;
  MF_RETURN_IF_ERROR(Tell(std::move(done)));
  micro_batches_done_.fetch_add(1);
  return Status::Ok();
}

Status Trainer::Commit(const Reply& lease) {
  const StepRef at{lease.epoch, lease.step};
  MF_ASSIGN_OR_RETURN(const Prepared prepared, tables_.Prepare(at));
  const StepEnd end = DecideEnd(prepared, lease);
  MF_ASSIGN_OR_RETURN(const bool applied, tables_.Finish(at, end));
  return Tell(StepEndedRequest(lease, prepared, end, applied));
}

Status Trainer::Evaluate(const Reply& lease, Lane& lane) {
  const StepRef at{lease.epoch, lease.step};  // the state after the step
  MF_ASSIGN_OR_RETURN(const auto parameters, Parameters(at));
  double nll = 0;
  uint64_t tokens = 0;
  const int64_t sequences = data_.eval_sequences();
  for (int64_t begin = 0; begin < sequences; begin += config_.train.batch) {
    const int64_t count = std::min(config_.train.batch, sequences - begin);
    MF_RETURN_IF_ERROR(data_.EvalBatch(begin, count, &lane.batch));
    ComputeGate& gate = Gate(lane);
    std::lock_guard computing(gate);
    RemoteExchange exchange(tables_, config_, pool_, gate, at, Access::kReading, 0);
    MF_RETURN_IF_ERROR(
        compute_.Score(parameters, lane.batch, exchange, lane.workspace, &lane.logprobs));
    for (const float logprob : lane.logprobs) nll -= static_cast<double>(logprob);
    tokens += lane.logprobs.size();
  }
  Request evaluated = BoardRequest(Op::kEvaluated, lease);
  evaluated.value = tokens == 0 ? std::nan("") : nll / static_cast<double>(tokens);
  return Tell(std::move(evaluated));
}

Status Trainer::Recover(const Reply& lease) {
  Request status;
  status.op = Op::kStatus;
  Client::Outcome states = client_.CallAll(std::vector<Request>(client_.servers(), status)).get();
  if (!states.ok()) return states.status();
  const Recovery recovery = DecideRecovery(lease, *states);
  const RecoveryPlan& plan = recovery.plan;
  if (plan.action == RecoveryPlan::Action::kRefuse) return Status::Failed(plan.message);
  if (plan.action == RecoveryPlan::Action::kRollback) {
    Client::Outcome done = client_.CallAll(recovery.rollbacks).get();
    if (!done.ok()) return done.status();
    if (plan.epoch_seen != 0) {
      spdlog::warn("servers were recovered: the run goes back to step {}", plan.step);
    } else if (plan.step != 0) {
      spdlog::info("the run goes on after step {}", plan.step);
    }
  }
  return Tell(recovery.recovered);
}

void Trainer::RenewLeases() {
  std::unique_lock lock(state_mutex_);
  while (!renewer_stops_) {
    // Every lease has its own time: one that lasts must not wait for ever behind new, short ones.
    auto next = After(kIdle);
    for (const auto& [id, lease] : leases_) next = std::min(next, lease.next);
    leases_changed_ = false;
    if (wake_renewer_.wait_until(lock, next,
                                 [this] { return renewer_stops_ || leases_changed_; })) {
      continue;
    }
    for (auto& [id, lease] : leases_) {
      if (lease.next > std::chrono::steady_clock::now()) continue;
      lease.next = After(lease.between);
      Request renew;
      renew.op = Op::kRenew;
      renew.lease = id;
      // Whatever the answer is: a lease that was lost shows when the work is handed in.
      client_.Call(0, std::move(renew));
    }
  }
}

}  // namespace mf
