#include "tests/simulation/worker.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/client/lease_work.h"
#include "tests/simulation/world.h"

namespace mf::simulation {
namespace {

constexpr double kRetrySeconds = 0.05;
constexpr double kDeadlineSeconds = 20;
constexpr double kResendSeconds = 0.1;
constexpr double kResendSecondsMax = 1.5;

bool SameRecord(const StepRecord& a, const StepRecord& b) {
  const bool same_norm =
      a.grad_norm == b.grad_norm || (std::isnan(a.grad_norm) && std::isnan(b.grad_norm));
  return a.step == b.step && a.loss == b.loss && a.lr == b.lr && same_norm &&
         a.dropped == b.dropped && a.has_val_loss == b.has_val_loss && a.val_loss == b.val_loss;
}

}  // namespace

Worker::Worker(World& world, size_t index)
    : world_(world),
      index_(index),
      sessions_(world.profile().servers, 0),
      incarnations_(world.profile().servers, 0) {}

void Worker::Start() {
  tasks_.reserve(4);
  tasks_.push_back(Main());
  tasks_.back().Start();
}

void Worker::Pause::await_suspend(std::coroutine_handle<> waiter) {
  worker.world_.InWorker(worker.index_, seconds, [waiter] { waiter.resume(); });
}

Worker::CallPtr Worker::Begin(size_t server, Request request) {
  std::vector<Request> requests;
  requests.push_back(std::move(request));
  return Begin(std::move(requests), server);
}

Worker::CallPtr Worker::Begin(std::vector<Request> requests, size_t first_server) {
  const uint64_t id = next_id_++;
  auto call = std::make_shared<Call>();
  call->first_server = first_server;
  call->waiting = requests.size();
  call->replies.resize(requests.size());
  call->deadline = world_.now() + kDeadlineSeconds;
  call->resend_seconds = kResendSeconds;
  calls_[id] = call;
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = id;
    requests[i].session = sessions_[first_server + i];
    call->requests.push_back(std::make_shared<Request>(std::move(requests[i])));
    world_.Send(index_, first_server + i, call->requests.back());
  }
  world_.InWorker(index_, call->resend_seconds, [this, id] { Repeat(id); });
  return call;
}

void Worker::Repeat(uint64_t id) {
  const auto found = calls_.find(id);
  if (found == calls_.end()) return;
  Call& call = *found->second;
  if (world_.now() >= call.deadline) {
    world_.Count(Seen::kDeadline);
    timed_out_ = true;
    Complete(id, Status::Failed("no answer from a server for long"));
    return;
  }
  for (size_t i = 0; i < call.requests.size(); ++i) {
    if (call.requests[i] == nullptr) continue;
    world_.Count(Seen::kResend);
    world_.Send(index_, call.first_server + i, call.requests[i]);
  }
  call.resend_seconds = std::min(kResendSecondsMax, 2 * call.resend_seconds);
  const double jitter = world_.dice().Between(0.75, 1.25);
  world_.InWorker(index_, call.resend_seconds * jitter, [this, id] { Repeat(id); });
}

void Worker::OnReply(size_t server, const Reply& reply) {
  const auto found = calls_.find(reply.id);
  if (found == calls_.end()) return;
  Call& call = *found->second;
  const size_t slot = server - call.first_server;
  if (slot >= call.requests.size() || call.requests[slot] == nullptr) return;
  call.requests[slot] = nullptr;
  call.replies[slot] = reply;
  if (--call.waiting > 0) return;
  for (size_t i = 0; i < call.replies.size(); ++i) {
    const Reply& answer = call.replies[i];
    if (answer.code == Code::kOk) continue;
    Complete(reply.id, Status(answer.code, "server " + std::to_string(call.first_server + i) +
                                               ": " + OpName(answer.op) + ": " + answer.message));
    return;
  }
  Complete(reply.id, std::move(call.replies));
}

void Worker::Complete(uint64_t id, Outcome outcome) {
  const CallPtr call = calls_.extract(id).mapped();
  call->outcome.emplace(std::move(outcome));
  if (call->waiter) std::exchange(call->waiter, {}).resume();
}

void Worker::Fail(const Status& status) {
  if (failure_.has_value()) return;
  failure_ = status;
  if (world_.tracing()) {
    world_.Trace("worker " + std::to_string(index_) + " ends: " + status.message());
  }
}

Task<Status> Worker::Main() {
  const Status joined = co_await Join();
  if (!joined.ok()) {
    Fail(joined);
    co_return joined;
  }
  lanes_left_ = world_.profile().lanes;
  for (int lane = world_.profile().lanes; lane > 0; --lane) {
    tasks_.push_back(RunLane());
    tasks_.back().Start();
  }
  co_return Status::Ok();
}

Task<Status> Worker::Join() {
  while (joining_) {
    Pause pause{*this, 0.005};
    co_await pause;
  }
  joining_ = true;
  std::vector<Request> hellos(world_.profile().servers);
  for (size_t server = 0; server < hellos.size(); ++server) {
    hellos[server].op = Op::kHello;
    hellos[server].shard = static_cast<uint32_t>(server);
    hellos[server].shards = static_cast<uint32_t>(hellos.size());
    hellos[server].run_id = "the run";
    hellos[server].text = world_.config_text();
  }
  Answer answer{Begin(std::move(hellos), 0)};
  Outcome outcome = co_await answer;
  joining_ = false;
  if (!outcome.ok()) co_return outcome.status();
  for (size_t server = 0; server < outcome.value().size(); ++server) {
    sessions_[server] = outcome.value()[server].session;
    incarnations_[server] = outcome.value()[server].incarnation;
  }
  co_return Status::Ok();
}

Task<Status> Worker::RunLane() {
  while (!failure_.has_value()) {
    Request ask;
    ask.op = Op::kLease;
    cursor_.Tell(&ask);
    ask.incarnations = incarnations_;
    Answer answer{Begin(0, std::move(ask))};
    Outcome outcome = co_await answer;
    Status status = outcome.ok() ? Status::Ok() : outcome.status();
    if (status.ok()) {
      const Reply lease = std::move(outcome.value()[0]);
      TakeRecords(lease);
      if (lease.work == Work::kWait) continue;
      if (lease.work == Work::kFailed) {
        Fail(Status::Failed(lease.text));
        co_return Status::Ok();
      }
      if (lease.work == Work::kFinished) {
        if (!lease.records.empty()) continue;
        if (--lanes_left_ == 0) finished_ = true;
        co_return Status::Ok();
      }
      status = co_await WorkUnderLease(lease);
    }
    if (status.ok()) continue;
    if (!WorkIsOver(status.code())) {
      Fail(status);
      co_return status;
    }
    Pause pause{*this, kRetrySeconds};
    co_await pause;
    if (status.code() == Code::kNotJoined) {
      const Status joined = co_await Join();
      if (!joined.ok()) {
        Fail(joined);
        co_return joined;
      }
    }
  }
  co_return Status::Ok();
}

Task<Status> Worker::WorkUnderLease(const Reply& lease) {
  if (world_.faults() && world_.dice().Chance(world_.profile().not_renewed)) {
    world_.Count(Seen::kLeaseNotRenewed);
  } else {
    leases_.insert(lease.lease);
    Renew(lease.lease, lease.lease_seconds / 3);
  }
  Status status;
  switch (lease.work) {
    case Work::kMicroBatch:
      status = co_await TrainMicroBatch(lease);
      break;
    case Work::kCommit:
      status = co_await Commit(lease);
      break;
    case Work::kEvaluate:
      status = co_await Evaluate(lease);
      break;
    default:
      status = co_await Recover(lease);
  }
  leases_.erase(lease.lease);
  if (!status.ok() && WorkIsOver(status.code())) Begin(0, BoardRequest(Op::kGiveBack, lease));
  co_return status;
}

void Worker::Renew(uint64_t lease, double seconds) {
  world_.InWorker(index_, seconds, [this, lease, seconds] {
    if (!leases_.contains(lease)) return;
    Request renew;
    renew.op = Op::kRenew;
    renew.lease = lease;
    Begin(0, std::move(renew));
    Renew(lease, seconds);
  });
}

double Worker::WorkSeconds(double lease_seconds) {
  Dice& dice = world_.dice();
  const bool slow = world_.faults() && dice.Chance(world_.profile().slow_work);
  return slow ? dice.Between(0.5, 3) * lease_seconds : dice.Between(0, 0.01);
}

Task<Status> Worker::Read(uint64_t epoch, uint64_t step, uint32_t tensor) {
  const RunModel& model = world_.model();
  Request pull;
  pull.op = Op::kPull;
  pull.epoch = epoch;
  pull.step = step;
  pull.tensor = tensor;
  pull.row_count = model.tensors()[tensor].total_rows();
  pull.payload = {Frame()};
  Answer answer{Begin(std::vector<Request>(world_.profile().servers, pull), 0)};
  Outcome outcome = co_await answer;
  if (!outcome.ok()) co_return outcome.status();
  for (size_t server = 0; server < outcome.value().size(); ++server) {
    const std::vector<float> due = model.Readable(tensor, step, server);
    const Frames& payload = outcome.value()[server].payload;
    if (payload.size() != 1 || payload[0].size() != due.size() * sizeof(float) ||
        std::memcmp(payload[0].data(), due.data(), payload[0].size()) != 0) {
      world_.Fail("worker " + std::to_string(index_) + " read another state of " +
                  model.tensors()[tensor].name + " after step " + std::to_string(step) +
                  " from server " + std::to_string(server));
    }
  }
  co_return Status::Ok();
}

Task<Status> Worker::Tell(Request request) {
  Answer answer{Begin(0, std::move(request))};
  Outcome outcome = co_await answer;
  co_return outcome.ok() ? Status::Ok() : outcome.status();
}

Task<Status> Worker::TrainMicroBatch(const Reply& lease) {
  const RunModel& model = world_.model();
  Dice& dice = world_.dice();
  const uint32_t tensor = model.readable()[dice.Below(model.readable().size())];
  Status status = co_await Read(lease.epoch, lease.step - 1, tensor);
  if (!status.ok()) co_return status;
  Pause pause{*this, WorkSeconds(lease.lease_seconds)};
  co_await pause;
  std::vector<CallPtr> calls;
  const uint32_t count = static_cast<uint32_t>(model.tensors().size());
  const uint32_t first = static_cast<uint32_t>(dice.Below(count));
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t id = (first + i) % count;
    std::vector<Request> requests = model.Contributions(id, lease.step, lease.micro_batch);
    for (Request& request : requests) {
      request.epoch = lease.epoch;
      request.step = lease.step;
    }
    if (requests[0].op == Op::kBackward && dice.Chance(0.3)) {
      std::vector<Request> lookups;
      for (size_t server = 0; server < requests.size(); ++server) {
        lookups.push_back(model.Lookup(id, lease.step, lease.micro_batch, server));
        lookups.back().epoch = lease.epoch;
        lookups.back().step = lease.step;
      }
      Answer looked_up{Begin(std::move(lookups), 0)};
      Outcome outcome = co_await looked_up;
      if (!outcome.ok()) co_return outcome.status();
    }
    calls.push_back(Begin(std::move(requests), 0));
  }
  for (const CallPtr& call : calls) {
    Answer answer{call};
    Outcome outcome = co_await answer;
    if (status.ok() && !outcome.ok()) status = outcome.status();
  }
  if (!status.ok()) co_return status;
  Request done = BoardRequest(Op::kMicroBatchDone, lease);
  done.value = model.LossSum(lease.step, lease.micro_batch);
  status = co_await Tell(std::move(done));
  co_return status;
}

Task<Status> Worker::Commit(const Reply& lease) {
  const RunModel& model = world_.model();
  Request prepare;
  prepare.op = Op::kPrepare;
  prepare.epoch = lease.epoch;
  prepare.step = lease.step;
  const size_t servers = world_.profile().servers;
  Answer prepares{Begin(std::vector<Request>(servers, prepare), 0)};
  Outcome answers = co_await prepares;
  if (!answers.ok()) co_return answers.status();
  const Result<Prepared> prepared =
      CombinePrepared(model.tensors(), model.blocks(), answers.value());
  if (!prepared.ok()) co_return prepared.status();
  const StepEnd end = DecideEnd(prepared.value(), lease);
  Pause pause{*this, WorkSeconds(lease.lease_seconds)};
  co_await pause;
  Answer ends{Begin(std::vector<Request>(servers, EndRequest(lease.epoch, lease.step, end)), 0)};
  Outcome ended = co_await ends;
  if (!ended.ok()) co_return ended.status();
  const Result<bool> applied = HowItEnded(lease.step, ended.value());
  if (!applied.ok()) co_return applied.status();
  Status told = co_await Tell(StepEndedRequest(lease, prepared.value(), end, applied.value()));
  co_return told;
}

Task<Status> Worker::Evaluate(const Reply& lease) {
  Status status = co_await Read(lease.epoch, lease.step, world_.model().readable().back());
  if (!status.ok()) co_return status;
  Pause pause{*this, WorkSeconds(lease.lease_seconds)};
  co_await pause;
  Request evaluated = BoardRequest(Op::kEvaluated, lease);
  evaluated.value = world_.model().ValLoss(lease.step);
  status = co_await Tell(std::move(evaluated));
  co_return status;
}

Task<Status> Worker::Recover(const Reply& lease) {
  Request ask;
  ask.op = Op::kStatus;
  Answer asked{Begin(std::vector<Request>(world_.profile().servers, ask), 0)};
  Outcome states = co_await asked;
  if (!states.ok()) co_return states.status();
  const Recovery recovery = DecideRecovery(lease, states.value());
  // Those that come late with a rollback are the ones to be afraid of.
  const bool late = world_.faults() && world_.profile().lanes > 1 && world_.dice().Chance(0.2);
  Pause pause{*this, WorkSeconds(lease.lease_seconds) + (late ? 2 * lease.lease_seconds : 0)};
  co_await pause;
  if (recovery.plan.action == RecoveryPlan::Action::kHigherEpoch) {
    world_.Count(Seen::kRecoverHolderWasLate);
  }
  if (recovery.plan.action == RecoveryPlan::Action::kRefuse) {
    co_return Status::Failed(recovery.plan.message);
  }
  if (recovery.plan.action == RecoveryPlan::Action::kRollback) {
    Answer rollbacks{Begin(recovery.rollbacks, 0)};
    Outcome done = co_await rollbacks;
    if (!done.ok()) co_return done.status();
  }
  Status told = co_await Tell(recovery.recovered);
  co_return told;
}

void Worker::TakeRecords(const Reply& lease) {
  for (const StepRecord& record : cursor_.Take(lease)) {
    // A gap would stay: only what is newer than the last is asked for.
    if (record.step > 1 && !records_.contains(record.step - 1)) {
      world_.Fail("worker " + std::to_string(index_) + " was told of step " +
                  std::to_string(record.step) + " but not of the one before");
    }
    records_[record.step] = record;
    if (!SameRecord(record, world_.model().Record(record.step))) {
      world_.Fail("the record of step " + std::to_string(record.step) +
                  " is not that of an undisturbed run");
    }
  }
}

}  // namespace mf::simulation
