#include "common/client/session.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "common/base/logging.h"

namespace mf {
namespace {

constexpr std::chrono::duration<double> kIdle(60);  // of the renewer when nothing is leased

std::chrono::steady_clock::time_point After(std::chrono::duration<double> wait) {
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<std::chrono::steady_clock::duration>(wait);
}

void LogRecovery(const RecoveryPlan& plan) {
  if (plan.epoch_seen != 0) {
    spdlog::warn("servers were recovered: the run goes back to step {}", plan.step);
  } else if (plan.step != 0) {
    spdlog::info("the run goes on after step {}", plan.step);
  }
}

}  // namespace

Session::Session(Client& client, const RunDescription& run, Options options)
    : client_(client),
      options_(std::move(options)),
      tables_(client, run),
      membership_(run.RunId(), run.Json(), client.servers()),
      renewer_([this] { RenewLeases(); }) {}

Session::~Session() {
  {
    std::lock_guard lock(leases_mutex_);
    closing_ = true;
  }
  leases_changed_.notify_all();
  renewer_.join();
}

Status Session::Join() {
  std::lock_guard joining(join_mutex_);
  std::vector<Request> hellos;
  {
    std::lock_guard lock(membership_mutex_);
    hellos = membership_.Hellos();
  }
  Client::Outcome replies = client_.CallAll(std::move(hellos)).get();
  if (!replies.ok()) return replies.status();
  for (size_t server = 0; server < replies->size(); ++server) {
    client_.SetSession(server, As<HelloReply>((*replies)[server]).session);
  }
  bool new_board = false;
  {
    std::lock_guard lock(membership_mutex_);
    new_board = membership_.Joined(*replies);
  }
  if (new_board && options_.on_new_board) options_.on_new_board();
  return Status::Ok();
}

Result<LeaseReply> Session::AskBoard() {
  Request ask;
  {
    std::lock_guard lock(membership_mutex_);
    ask.body = membership_.Ask();
  }
  Client::Outcome replies = client_.Call(0, std::move(ask)).get();
  if (!replies.ok()) return replies.status();
  return As<LeaseReply>((*replies)[0]);
}

Status Session::TakeRecords(const LeaseReply& lease, bool* news) {
  std::lock_guard telling(records_mutex_);  // lanes tell one after the other
  std::vector<StepRecord> records;
  {
    std::lock_guard lock(membership_mutex_);
    records = membership_.TakeRecords(lease);
  }
  *news = !records.empty();
  for (const StepRecord& record : records) {
    if (options_.on_step) MF_RETURN_IF_ERROR(options_.on_step(record));
  }
  return Status::Ok();
}

void Session::Hold(const WorkLoop::Lease& lease) {
  {
    std::lock_guard lock(leases_mutex_);
    // A third of the lease: two renewals may be lost.
    const std::chrono::duration<double> between(lease.seconds / 3);
    leases_[lease.id] = {between, After(between)};
    changed_ = true;
  }
  leases_changed_.notify_all();
}

void Session::LetGo(uint64_t lease) {
  std::lock_guard lock(leases_mutex_);
  leases_.erase(lease);
}

void Session::RenewLeases() {
  std::unique_lock lock(leases_mutex_);
  while (!closing_) {
    // Every lease has its own time: one that lasts must not wait for ever behind new, short ones.
    auto next = After(kIdle);
    for (const auto& [id, lease] : leases_) next = std::min(next, lease.next);
    changed_ = false;
    if (leases_changed_.wait_until(lock, next, [this] { return closing_ || changed_; })) continue;
    for (auto& [id, lease] : leases_) {
      if (lease.next > Clock::now()) continue;
      lease.next = After(lease.between);
      // Whatever the answer is: a lease that was lost shows when the work is handed in.
      client_.Call(0, {.body = RenewRequest{id}});
    }
  }
}

Session::Lane::Lane(Session& session)
    : session_(session),
      loop_(session.tables_.run().tensors, session.tables_.blocks(), session.client_.servers(),
            static_cast<uint64_t>(session.tables_.run().rules.steps)),
      action_(loop_.Start()) {}

Result<Session::Work> Session::Lane::Next() {
  // One action after the other, until one is the program's.
  struct Step {
    Lane& lane;
    Session& session;
    std::optional<Result<Work>> result = {};

    WorkLoop::Action operator()(WorkLoop::Ask) {
      if (session.stopping()) {
        result = Work{};
        return WorkLoop::Ask{};
      }
      Result<LeaseReply> answer = session.AskBoard();
      bool news = false;
      if (answer.ok()) {
        if (Status told = session.TakeRecords(*answer, &news); !told.ok()) answer = told;
      }
      return lane.loop_.Asked(std::move(answer), news);
    }
    WorkLoop::Action operator()(WorkLoop::Call& call) {
      Client& client = session.client_;
      if (call.recovered.has_value()) LogRecovery(*call.recovered);
      const size_t requests = call.requests.size();
      Client::Outcome replies =
          requests == 1 ? client.Call(call.first_server, std::move(call.requests[0])).get()
                        : client.CallAll(std::move(call.requests)).get();
      return lane.loop_.Replied(std::move(replies));
    }
    WorkLoop::Action operator()(const WorkLoop::Train& train) {
      result = Work{.kind = Work::Kind::kMicroBatch,
                    .open = train.at,
                    .micro_batch = train.micro_batch,
                    .finished = train.at.before()};
      return train;
    }
    WorkLoop::Action operator()(const WorkLoop::Evaluate& evaluate) {
      result = Work{.kind = Work::Kind::kEvaluation, .finished = evaluate.at};
      return evaluate;
    }
    WorkLoop::Action operator()(WorkLoop::Retry& retry) {
      spdlog::info("going on after: {}", retry.reason.message());
      if (retry.give_back.has_value()) session.client_.Call(0, std::move(*retry.give_back));
      std::this_thread::sleep_for(std::chrono::duration<double>(retry.pause_seconds));
      return lane.loop_.Retried(retry.join ? session.Join() : Status::Ok());
    }
    WorkLoop::Action operator()(const WorkLoop::Finished& finished) {
      result = Work{.kind = Work::Kind::kFinished, .finished = finished.at};
      return finished;
    }
    WorkLoop::Action operator()(const WorkLoop::Failed& failed) {
      result = failed.status;
      return failed;
    }
  };
  Step step{*this, session_};
  while (!step.result.has_value()) {
    const std::optional<WorkLoop::Lease> held = loop_.lease();
    WorkLoop::Action next = std::visit(step, action_);
    action_ = std::move(next);
    if (loop_.lease() == held) continue;
    if (held.has_value()) session_.LetGo(held->id);
    if (loop_.lease().has_value()) session_.Hold(*loop_.lease());
  }
  return *step.result;
}

void Session::Lane::Done(Result<double> value) {
  const std::optional<WorkLoop::Lease> held = loop_.lease();
  action_ = loop_.Worked(std::move(value));
  if (held.has_value() && !loop_.lease().has_value()) session_.LetGo(held->id);
}

}  // namespace mf
