#include "tests/simulation/worker.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "tests/simulation/world.h"

namespace mf::simulation {
namespace {

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
      membership_(world.config_text(), world.profile().servers) {}

void Worker::Start() {
  tasks_.reserve(5);
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
    if (answer.code == Code::kOk && Answers(answer, answer.op)) continue;
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

void Worker::End() {
  if (finished_ || std::exchange(ending_, true)) return;
  world_.Count(Seen::kWorkerLeft);
  if (world_.tracing()) world_.Trace("worker " + std::to_string(index_) + " is told to end");
}

Task<Status> Worker::Leave() {
  Answer answer{Begin(0, {.body = LeaveRequest{}})};
  Outcome outcome = co_await answer;
  uint64_t step = 0;
  if (outcome.ok()) {
    const LeaveReply& reply = As<LeaveReply>(outcome.value()[0]);
    if (reply.workers == 0) step = reply.at.step;
  }
  while (step != 0) {
    Answer saved{
        Begin(std::vector<Request>(world_.profile().servers, {.body = SaveRequest{step}}), 0)};
    Outcome replies = co_await saved;
    if (!replies.ok()) break;
    if (AllSaved(replies.value(), step)) {
      world_.Count(Seen::kSavedByLastWorker);
      if (world_.checker().NewestCommon() < step) {
        world_.Fail("step " + std::to_string(step) + " was said to be saved by all and is not");
      }
      break;
    }
    Pause pause{*this, 0.05};
    co_await pause;
  }
  left_ = true;
  world_.InWorker(index_, 0, [] {});  // the world looks at it
  co_return Status::Ok();
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
  Answer answer{Begin(membership_.Hellos(), 0)};
  Outcome outcome = co_await answer;
  joining_ = false;
  if (!outcome.ok()) co_return outcome.status();
  for (size_t server = 0; server < outcome.value().size(); ++server) {
    sessions_[server] = As<HelloReply>(outcome.value()[server]).session;
  }
  membership_.Joined(outcome.value());
  co_return Status::Ok();
}

Task<Status> Worker::RunLane() {
  const RunModel& model = world_.model();
  WorkLoop loop(model.tensors(), model.shares(), world_.profile().servers,
                static_cast<uint64_t>(model.config().train.steps));
  WorkLoop::Action action = loop.Start();
  while (!failure_.has_value()) {
    if (const auto* failed = std::get_if<WorkLoop::Failed>(&action)) {
      Fail(failed->status);
      co_return failed->status;
    }
    if (std::holds_alternative<WorkLoop::Finished>(action)) {
      if (--lanes_left_ == 0) finished_ = true;
      break;
    }
    if ((ending_ && std::holds_alternative<WorkLoop::Ask>(action)) ||
        std::holds_alternative<WorkLoop::Stopped>(action)) {
      if (--lanes_left_ > 0) break;
      tasks_.push_back(Leave());
      tasks_.back().Start();
      break;
    }
    const std::optional<WorkLoop::Lease> held = loop.lease();
    action = co_await Do(loop, std::move(action));
    if (loop.lease() == held) continue;
    if (held.has_value()) leases_.erase(held->id);
    if (loop.lease().has_value()) Hold(*loop.lease());
  }
  co_return Status::Ok();
}

Task<WorkLoop::Action> Worker::Do(WorkLoop& loop, WorkLoop::Action action) {
  if (auto* call = std::get_if<WorkLoop::Call>(&action)) {
    WorkLoop::Action next = co_await Send(loop, std::move(*call));
    co_return next;
  }
  if (auto* retry = std::get_if<WorkLoop::Retry>(&action)) {
    WorkLoop::Action next = co_await Retry(loop, std::move(*retry));
    co_return next;
  }
  if (const auto* train = std::get_if<WorkLoop::Train>(&action)) {
    Result<double> loss = co_await TrainMicroBatch(train->at, train->micro_batch);
    co_return loop.Worked(std::move(loss));
  }
  if (const auto* evaluate = std::get_if<WorkLoop::Evaluate>(&action)) {
    Result<double> loss = co_await Evaluate(evaluate->at);
    co_return loop.Worked(std::move(loss));
  }
  WorkLoop::Action next = co_await Ask(loop);
  co_return next;
}

Task<WorkLoop::Action> Worker::Ask(WorkLoop& loop) {
  Answer answer{Begin(0, {.body = membership_.Ask()})};
  Outcome outcome = co_await answer;
  if (!outcome.ok()) co_return loop.Asked(outcome.status(), false);
  const LeaseReply lease = As<LeaseReply>(outcome.value()[0]);
  bool news = false;
  TakeRecords(lease, &news);
  co_return loop.Asked(lease, news);
}

Task<WorkLoop::Action> Worker::Send(WorkLoop& loop, WorkLoop::Call call) {
  const Op op = call.requests[0].op();
  double seconds = call.pause_seconds;
  if (op == Op::kSave && seconds == 0) world_.Count(Seen::kSavedForRecovery);
  if (op == Op::kApply || op == Op::kDrop) seconds = WorkSeconds();
  if (op == Op::kRollback || op == Op::kRecovered) {
    // Those that come late with a rollback are the ones to be afraid of.
    const bool late = world_.faults() && world_.profile().lanes > 1 && world_.dice().Chance(0.2);
    const double lease_seconds = world_.profile().config.train.lease_seconds;
    if (!call.recovered.has_value()) seconds = WorkSeconds() + (late ? 2 * lease_seconds : 0);
  }
  if (op == Op::kRecovered && !call.recovered.has_value()) {
    world_.Count(Seen::kRecoverHolderWasLate);
  }
  Pause pause{*this, seconds};
  co_await pause;
  Answer answer{Begin(std::move(call.requests), call.first_server)};
  Outcome outcome = co_await answer;
  co_return loop.Replied(std::move(outcome));
}

Task<WorkLoop::Action> Worker::Retry(WorkLoop& loop, WorkLoop::Retry retry) {
  if (retry.give_back.has_value()) Begin(0, std::move(*retry.give_back));
  Pause pause{*this, retry.pause_seconds};
  co_await pause;
  Status joined;
  if (retry.join) joined = co_await Join();
  co_return loop.Retried(joined);
}

void Worker::Hold(const WorkLoop::Lease& lease) {
  if (world_.faults() && world_.dice().Chance(world_.profile().not_renewed)) {
    world_.Count(Seen::kLeaseNotRenewed);
    return;
  }
  leases_.insert(lease.id);
  Renew(lease.id, lease.seconds / 3);
}

void Worker::Renew(uint64_t lease, double seconds) {
  world_.InWorker(index_, seconds, [this, lease, seconds] {
    if (!leases_.contains(lease)) return;
    Begin(0, {.body = RenewRequest{lease}});
    Renew(lease, seconds);
  });
}

double Worker::WorkSeconds() {
  Dice& dice = world_.dice();
  const bool slow = world_.faults() && dice.Chance(world_.profile().slow_work);
  const double lease_seconds = world_.profile().config.train.lease_seconds;
  return slow ? dice.Between(0.5, 3) * lease_seconds : dice.Between(0, 0.01);
}

Task<Status> Worker::Read(FinishedStep at, uint32_t tensor) {
  const RunModel& model = world_.model();
  const Request pull{.body = PullRequest{.at = at,
                                         .tensor = tensor,
                                         .row_count = model.tensors()[tensor].total_rows()},
                     .payload = {Frame()}};
  Answer answer{Begin(std::vector<Request>(world_.profile().servers, pull), 0)};
  Outcome outcome = co_await answer;
  if (!outcome.ok()) co_return outcome.status();
  for (size_t server = 0; server < outcome.value().size(); ++server) {
    const std::vector<float> due = model.Readable(tensor, at.step, server);
    const Frames& payload = outcome.value()[server].payload;
    if (payload.size() != 1 || payload[0].size() != due.size() * sizeof(float) ||
        std::memcmp(payload[0].data(), due.data(), payload[0].size()) != 0) {
      world_.Fail("worker " + std::to_string(index_) + " read another state of " +
                  model.tensors()[tensor].name + " after step " + std::to_string(at.step) +
                  " from server " + std::to_string(server));
    }
  }
  co_return Status::Ok();
}

Task<Result<double>> Worker::TrainMicroBatch(OpenStep at, uint32_t micro_batch) {
  const RunModel& model = world_.model();
  Dice& dice = world_.dice();
  const uint32_t tensor = model.readable()[dice.Below(model.readable().size())];
  Status status = co_await Read(at.before(), tensor);
  if (!status.ok()) co_return status;
  Pause pause{*this, WorkSeconds()};
  co_await pause;
  std::vector<CallPtr> calls;
  const uint32_t count = static_cast<uint32_t>(model.tensors().size());
  const uint32_t first = static_cast<uint32_t>(dice.Below(count));
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t id = (first + i) % count;
    std::vector<Request> requests = model.Contributions(id, at, micro_batch);
    if (requests[0].op() == Op::kBackward && dice.Chance(0.3)) {
      std::vector<Request> lookups;
      for (const Request& request : requests) lookups.push_back(model.Lookup(request));
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
  co_return model.LossSum(at.step, micro_batch);
}

Task<Result<double>> Worker::Evaluate(FinishedStep at) {
  Status status = co_await Read(at, world_.model().readable().back());
  if (!status.ok()) co_return status;
  Pause pause{*this, WorkSeconds()};
  co_await pause;
  co_return world_.model().ValLoss(at.step);
}

void Worker::TakeRecords(const LeaseReply& lease, bool* news) {
  for (const StepRecord& record : membership_.TakeRecords(lease)) {
    *news = true;
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
