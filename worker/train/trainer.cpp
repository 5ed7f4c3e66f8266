#include "worker/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <system_error>
#include <thread>

namespace mf {
struct Trainer::Lane {
  Compute::Workspace& workspace;
  ComputeGate gate = {};  // its own, where lanes need not take turns
  TokenBatch batch = {};
  Compute::Gradients gradients = {};
  std::vector<float> logprobs = {};
};

ComputeGate& Trainer::Gate(Lane& lane) { return compute_.one_at_a_time() ? gate_ : lane.gate; }

Trainer::Trainer(const Config& config, const RunDescription& run, const BatchSource& data,
                 Client& client, Compute& compute, ThreadPool& pool, Options options)
    : config_(config),
      run_(run),
      data_(data),
      options_(std::move(options)),
      compute_(compute),
      pool_(pool),
      session_(client, run,
               {.on_step = options_.on_step,
                .on_told = options_.on_told,
                .on_new_coordinator = [this] { ForgetParameters(); }}) {}

Trainer::~Trainer() = default;

Status Trainer::MakeWorkspaces() {
  while (workspaces_.size() < static_cast<size_t>(config_.exchange.in_flight)) {
    MF_ASSIGN_OR_RETURN(auto workspace, compute_.NewWorkspace());
    workspaces_.push_back(std::move(workspace));
  }
  return Status::Ok();
}

Status Trainer::Join() {
  MF_RETURN_IF_ERROR(MakeWorkspaces());
  return session_.Join();
}

void Trainer::Stop() {
  stopping_.store(true);
  session_.Stop();
}

void Trainer::ForgetParameters() {
  MutexLock lock(parameters_mutex_);
  parameters_.reset();
  compute_.Forget();
}

Status Trainer::Run() {
  std::vector<std::thread> lanes;
  lanes.reserve(workspaces_.size());
  try {
    for (const auto& workspace : workspaces_) {
      lanes.emplace_back([this, &workspace] { RunLane(*workspace); });
    }
  } catch (const std::system_error& error) {  // those that run are waited for
    Fail(Status::Failed("cannot start a thread: " + error.code().message() + "; raise ulimit -u"));
  }
  for (std::thread& lane : lanes) lane.join();
  MutexLock lock(end_mutex_);
  return failure_;
}

FinishedStep Trainer::finished() const {
  MutexLock lock(end_mutex_);
  return finished_;
}

void Trainer::Fail(const Status& status) {
  MutexLock lock(end_mutex_);
  if (failure_.ok()) failure_ = status;
  Stop();
}

void Trainer::RunLane(Compute::Workspace& workspace) {
  using Kind = Session::Work::Kind;
  Lane lane{workspace};
  const std::unique_ptr<Session::Lane> session = session_.NewLane();
  while (true) {
    const Result<Session::Work> work = session->Next();
    if (!work.ok()) return Fail(work.status());
    switch (work.value().kind) {
      case Kind::kMicroBatch:
        session->Done(TrainMicroBatch(work.value(), lane));
        break;
      case Kind::kEvaluation:
        session->Done(Evaluate(work.value(), lane));
        break;
      case Kind::kFinished: {
        MutexLock lock(end_mutex_);
        finished_ = work.value().finished;
        return;
      }
      case Kind::kStopped:
        return;
    }
  }
}

Result<std::shared_ptr<const DenseTensors>> Trainer::Parameters(FinishedStep at) {
  MutexLock lock(parameters_mutex_);  // the other lanes wait for the one that pulls
  if (parameters_ != nullptr && parameters_at_ == at) return parameters_;
  auto parameters = std::make_shared<DenseTensors>(run_.tensors.size());
  std::vector<Pending> pulls;
  for (const TensorSpec& tensor : run_.tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    std::vector<float>& values = (*parameters)[tensor.id];
    values.resize(tensor.values());
    pulls.push_back(tables().PullRange(at, tensor, 0, tensor.total_rows(), values.data()));
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

void Trainer::PushDense(OpenStep at, uint32_t micro_batch, const Compute::Gradients& gradients,
                        std::vector<Pending>* pending) {
  for (const TensorSpec& tensor : run_.tensors) {
    if (tensor.kind != TensorKind::kDense) continue;
    const Compute::Gradient& gradient = gradients[tensor.id];
    const float* values = gradient.values.data();
    pending->push_back(gradient.rows.empty()
                           ? tables().PushWhole(at, micro_batch, tensor, values)
                           : tables().Push(at, micro_batch, tensor, gradient.rows, {}, values));
  }
}

Result<double> Trainer::TrainMicroBatch(const Session::Work& work, Lane& lane) {
  MF_ASSIGN_OR_RETURN(const auto parameters, Parameters(work.open.before()));
  const int64_t step = run_.rules.steps_before + static_cast<int64_t>(work.open.step);
  MF_RETURN_IF_ERROR(data_.TrainBatch(step, work.micro_batch, &lane.batch));
  const double tokens_per_step = static_cast<double>(run_.rules.tokens_per_step());
  double loss_sum = 0;
  std::vector<Pending> pushes;
  {
    ComputeGate& gate = Gate(lane);
    MutexLock computing(gate);
    RemoteExchange exchange(tables(), pool_, gate, work.open, work.micro_batch, &stopping_);
    std::unique_ptr<Exchange> wrapped;
    if (options_.wrap_exchange) {
      wrapped = options_.wrap_exchange(exchange, work.open, work.micro_batch);
    }
    MF_RETURN_IF_ERROR(compute_.Train(parameters, lane.batch, 1.0 / tokens_per_step,
                                      wrapped ? *wrapped : exchange, lane.workspace, &loss_sum,
                                      &lane.gradients));
    PushDense(work.open, work.micro_batch, lane.gradients, &pushes);
    MF_RETURN_IF_ERROR(exchange.Finish());
  }
  for (Pending& push : pushes) MF_RETURN_IF_ERROR(push.Wait());
  micro_batches_done_.fetch_add(1);
  return loss_sum;
}

Result<double> Trainer::Evaluate(const Session::Work& work, Lane& lane) {
  MF_ASSIGN_OR_RETURN(const auto parameters, Parameters(work.finished));
  double nll = 0;
  uint64_t tokens = 0;
  const int64_t sequences = data_.eval_sequences();
  for (int64_t begin = 0; begin < sequences; begin += config_.train.batch) {
    const int64_t count = std::min(config_.train.batch, sequences - begin);
    MF_RETURN_IF_ERROR(data_.EvalBatch(begin, count, &lane.batch));
    ComputeGate& gate = Gate(lane);
    MutexLock computing(gate);
    RemoteExchange exchange(tables(), pool_, gate, work.finished, /*micro_batch=*/0, &stopping_);
    MF_RETURN_IF_ERROR(
        compute_.Score(parameters, lane.batch, exchange, lane.workspace, &lane.logprobs));
    for (const float logprob : lane.logprobs) nll -= static_cast<double>(logprob);
    tokens += lane.logprobs.size();
  }
  return tokens == 0 ? std::nan("") : nll / static_cast<double>(tokens);
}

}  // namespace mf
