#include "common/client/session.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <optional>
#include <thread>
#include <utility>

#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/client/client.h"
#include "common/client/connection.h"
#include "common/client/membership.h"
#include "common/client/save_step.h"
#include "common/client/work_loop.h"

namespace mf {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;
// With servers that have not put the run before away: its last snapshot may be large.
constexpr Seconds kSavePatience(600);
// With servers that still hold a run that server 0 has given up: they heard its last worker later,
// by a renewal of its lease at most.
constexpr Seconds kGiveUpPatience(60);
constexpr std::chrono::milliseconds kJoinPause(200);
constexpr Seconds kSameReason(10);                  // between two lines that say the same
constexpr std::chrono::duration<double> kIdle(60);  // of the renewer when nothing is leased

Clock::time_point After(std::chrono::duration<double> wait) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(wait);
}

/// `told`: the newest finished step that this program was told of.
void LogRecovery(const RecoveryPlan& plan, uint64_t told) {
  if (plan.epoch_seen != 0) {
    spdlog::warn("servers were recovered: the run goes back to step {}", plan.step);
  } else if (plan.step == 0 && told > 0) {
    spdlog::warn(
        "the servers have nothing of this run, which had come to step {}: it begins anew. If their "
        "--data folder was moved, stop everything, bring it back and start again",
        told);
  } else if (plan.step != 0) {
    spdlog::info("the run goes on after step {}", plan.step);
  }
}

/// Renews leases from a thread of its own for as long as they are held.
class LeaseRenewer {
 public:
  explicit LeaseRenewer(Client& client) : client_(client), thread_([this] { Run(); }) {}
  ~LeaseRenewer() {
    {
      MutexLock lock(mutex_);
      closing_ = true;
    }
    changed_.NotifyAll();
    thread_.join();
  }

  void Hold(const WorkLoop::Lease& lease) {
    {
      MutexLock lock(mutex_);
      // A third of the lease: two renewals may be lost.
      const std::chrono::duration<double> between(lease.seconds / 3);
      leases_[lease.id] = {between, After(between)};
      new_lease_ = true;
    }
    changed_.NotifyAll();
  }
  void Release(uint64_t lease) {
    MutexLock lock(mutex_);
    leases_.erase(lease);
  }

 private:
  struct Held {
    std::chrono::duration<double> between;  // renewals
    Clock::time_point next;
  };
  void Run() {
    MutexLock lock(mutex_);
    while (!closing_) {
      // Every lease has its own time: one that lasts must not wait for ever behind new, short ones.
      auto next = After(kIdle);
      for (const auto& [id, lease] : leases_) next = std::min(next, lease.next);
      new_lease_ = false;
      while (!closing_ && !new_lease_ && changed_.WaitUntil(mutex_, next)) {
      }
      if (closing_ || new_lease_) continue;
      for (auto& [id, lease] : leases_) {
        if (lease.next > Clock::now()) continue;
        lease.next = After(lease.between);
        // Whatever the answer is: a lease that was lost shows when the work is handed in.
        client_.Call(0, {.body = RenewRequest{id}});
      }
    }
  }

  Client& client_;
  Mutex mutex_;
  ConditionVariable changed_;
  std::map<uint64_t, Held> leases_ MF_GUARDED_BY(mutex_);  // by id
  bool new_lease_ MF_GUARDED_BY(mutex_) = false;
  bool closing_ MF_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace

struct Session::Impl {
  Impl(std::unique_ptr<Connection> own, Client& made, RunDescription description, Callbacks calls)
      : connection(std::move(own)),
        client(made),
        run(std::move(description)),
        callbacks(std::move(calls)),
        tables(client, run),
        membership(run.Json(), client.servers()),
        renewer(client) {}

  Status Join();
  /// `patience`: for so long after the first hello the same answer may become another one.
  Status SayHello(Seconds* patience) MF_REQUIRES(joining);
  Result<LeaseReply> AskCoordinator();
  /// Says why lanes do other things than they were to do; the same is said once in a while.
  void LogRetry(const std::string& reason);
  /// Tells on_step what is new.
  Status TakeRecords(const LeaseReply& lease, bool* news);

  const std::unique_ptr<Connection> connection;  // none: the client is somebody else's
  Client& client;
  const RunDescription run;
  const Callbacks callbacks;
  TableClient tables;
  std::atomic<bool> stopping{false};
  std::atomic<uint64_t> told{0};  // the newest finished step that on_step was called for

  Mutex joining MF_ACQUIRED_BEFORE(membership_mutex);  // one hello at a time
  // While on_step is called: lanes tell one after the other.
  Mutex telling MF_ACQUIRED_BEFORE(membership_mutex);
  Mutex membership_mutex;
  Membership membership MF_GUARDED_BY(membership_mutex);
  Mutex log_mutex;
  std::string last_reason MF_GUARDED_BY(log_mutex);
  Clock::time_point last_logged MF_GUARDED_BY(log_mutex);
  LeaseRenewer renewer;
};

Result<std::unique_ptr<Session>> Session::Connect(Options options) {
  MF_RETURN_IF_ERROR(SetUpLogging(options.log));
  MF_RETURN_IF_ERROR(options.run.Check());
  MF_RETURN_IF_ERROR(CheckShards(options.run, static_cast<int64_t>(options.addresses.size())));
  MF_ASSIGN_OR_RETURN(auto connection,
                      mf::Connect(options.addresses, options.keys, options.deadline_seconds));
  Client& client = *connection->client;
  return std::unique_ptr<Session>(new Session(std::make_unique<Impl>(
      std::move(connection), client, std::move(options.run), std::move(options.callbacks))));
}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Client& client, RunDescription run, Callbacks callbacks)
    : Session(std::make_unique<Impl>(nullptr, client, std::move(run), std::move(callbacks))) {}
Session::~Session() = default;

Status Session::Join() { return impl_->Join(); }
void Session::Stop() { impl_->stopping.store(true); }
const RunDescription& Session::run() const { return impl_->run; }
TableClient& Session::tables() { return impl_->tables; }

Result<Session::Left> Session::Leave(double patience_seconds) {
  Client& client = impl_->client;
  Client::Outcome replies = client.Call(0, {.body = LeaveRequest{}}).get();
  if (!replies.ok()) return Left{.reached = false};
  const LeaveReply& left = As<LeaveReply>((*replies)[0]);
  if (left.workers > 0 || left.at.step == 0) return Left{.others = left.workers};
  const Status saved = SaveStep(client, left.at.step, patience_seconds);
  if (saved.code() == Code::kStale) return Left{.others = 1};  // who came meanwhile
  if (!saved.ok()) return saved;
  return Left{.saved = left.at.step};
}

Status Session::Impl::Join() {
  MutexLock one(joining);
  // Who stops need not join again: lanes come here one after the other, and each would wait for a
  // server that is gone, or is just being started and lets nobody in.
  if (stopping.load()) return {Code::kUnavailable, "this worker ends"};
  const auto since = Clock::now();
  for (bool said = false;; said = true) {
    Seconds patience(0);
    const Status joined = SayHello(&patience);
    if (joined.ok() || stopping.load() || Clock::now() - since > patience) return joined;
    if (!said) spdlog::info("waiting for the servers: {}", joined.message());
    std::this_thread::sleep_for(kJoinPause);
  }
}

Status Session::Impl::SayHello(Seconds* patience) {
  std::vector<Request> hellos;
  {
    MutexLock lock(membership_mutex);
    hellos = membership.Hellos();
  }
  // Server 0 first: it alone is never left in silence by the workers of a run, so what it gives up
  // for this one may be given up everywhere.
  const Client::Outcome first = client.Call(0, hellos[0]).get();
  // A run that has just ended is still being read or saved there.
  if (first.status().code() == Code::kUnavailable) *patience = kSavePatience;
  if (!first.ok()) return first.status();
  client.SetSession(0, As<HelloReply>(first.value()[0]).session);
  Client::Outcome replies = client.CallAll(std::move(hellos)).get();
  // If they are trained, and server 0 only was restarted, it will soon refuse this run, too.
  if (replies.status().code() == Code::kUnavailable) *patience = kSavePatience;
  if (replies.status().code() == Code::kWrongRun) *patience = kGiveUpPatience;
  if (!replies.ok()) return replies.status();
  for (size_t server = 0; server < replies->size(); ++server) {
    client.SetSession(server, As<HelloReply>((*replies)[server]).session);
  }
  bool new_coordinator = false;
  {
    MutexLock lock(membership_mutex);
    new_coordinator = membership.Joined(*replies);
  }
  if (new_coordinator && callbacks.on_new_coordinator) callbacks.on_new_coordinator();
  return Status::Ok();
}

Result<LeaseReply> Session::Impl::AskCoordinator() {
  Request ask;
  {
    MutexLock lock(membership_mutex);
    ask.body = membership.Ask();
  }
  Client::Outcome replies = client.Call(0, std::move(ask)).get();
  if (!replies.ok()) return replies.status();
  return As<LeaseReply>((*replies)[0]);
}

void Session::Impl::LogRetry(const std::string& reason) {
  MutexLock lock(log_mutex);
  const auto now = Clock::now();
  if (reason == last_reason && now - last_logged < kSameReason) return;
  last_reason = reason;
  last_logged = now;
  spdlog::info("going on after: {}", reason);
}

Status Session::Impl::TakeRecords(const LeaseReply& lease, bool* news) {
  MutexLock one(telling);
  std::vector<StepRecord> records;
  {
    MutexLock lock(membership_mutex);
    records = membership.TakeRecords(lease);
  }
  *news = !records.empty();
  if (!records.empty()) told.store(records.back().step);
  for (const StepRecord& record : records) {
    if (callbacks.on_step) MF_RETURN_IF_ERROR(callbacks.on_step(record));
  }
  return *news && callbacks.on_told ? callbacks.on_told() : Status::Ok();
}

/// Does what the loop says, one action after the other, until one is the program's.
struct Session::Lane::Impl {
  explicit Impl(Session::Impl& owner)
      : session(owner),
        loop(owner.run.tensors, owner.tables.shares(), owner.client.servers(),
             static_cast<uint64_t>(owner.run.rules.steps)),
        action(loop.Start()) {}

  WorkLoop::Action Do(WorkLoop::Ask);
  WorkLoop::Action Do(WorkLoop::Call& call);
  WorkLoop::Action Do(const WorkLoop::Train& train);
  WorkLoop::Action Do(const WorkLoop::Evaluate& evaluate);
  WorkLoop::Action Do(WorkLoop::Retry& retry);
  WorkLoop::Action Do(const WorkLoop::Finished& finished);
  WorkLoop::Action Do(const WorkLoop::Stopped& stopped);
  WorkLoop::Action Do(const WorkLoop::Failed& failed);
  /// Takes the next action; leases that come and go with it are renewed and let go.
  void Take(WorkLoop::Action next, const std::optional<WorkLoop::Lease>& held);

  Session::Impl& session;
  WorkLoop loop;
  WorkLoop::Action action;
  std::optional<Result<Work>> result;  // of Next()
};

std::unique_ptr<Session::Lane> Session::NewLane() {
  return std::unique_ptr<Lane>(new Lane(std::make_unique<Lane::Impl>(*impl_)));
}

Session::Lane::Lane(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Lane::~Lane() = default;

Result<Session::Work> Session::Lane::Next() {
  impl_->result.reset();
  while (!impl_->result.has_value()) {
    const std::optional<WorkLoop::Lease> held = impl_->loop.lease();
    impl_->Take(std::visit([this](auto& action) { return impl_->Do(action); }, impl_->action),
                held);
  }
  return *impl_->result;
}

void Session::Lane::Done(Result<double> value) {
  const std::optional<WorkLoop::Lease> held = impl_->loop.lease();
  impl_->Take(impl_->loop.Worked(std::move(value)), held);
}

void Session::Lane::Impl::Take(WorkLoop::Action next, const std::optional<WorkLoop::Lease>& held) {
  action = std::move(next);
  if (loop.lease() == held) return;
  if (held.has_value()) session.renewer.Release(held->id);
  if (loop.lease().has_value()) session.renewer.Hold(*loop.lease());
}

WorkLoop::Action Session::Lane::Impl::Do(WorkLoop::Ask) {
  if (session.stopping.load()) {
    result = Work{};
    return WorkLoop::Ask{};
  }
  Result<LeaseReply> answer = session.AskCoordinator();
  bool news = false;
  if (answer.ok()) {
    if (Status told = session.TakeRecords(*answer, &news); !told.ok()) answer = told;
  }
  return loop.Asked(std::move(answer), news);
}

WorkLoop::Action Session::Lane::Impl::Do(WorkLoop::Call& call) {
  std::this_thread::sleep_for(std::chrono::duration<double>(call.pause_seconds));
  if (call.recovered.has_value()) LogRecovery(*call.recovered, session.told.load());
  if (call.requests.size() == 1) {
    return loop.Replied(session.client.Call(call.first_server, std::move(call.requests[0])).get());
  }
  return loop.Replied(session.client.CallAll(std::move(call.requests)).get());
}

WorkLoop::Action Session::Lane::Impl::Do(const WorkLoop::Train& train) {
  result = Work{.kind = Work::Kind::kMicroBatch,
                .open = train.at,
                .micro_batch = train.micro_batch,
                .finished = train.at.before()};
  return train;
}

WorkLoop::Action Session::Lane::Impl::Do(const WorkLoop::Evaluate& evaluate) {
  result = Work{.kind = Work::Kind::kEvaluation, .finished = evaluate.at};
  return evaluate;
}

WorkLoop::Action Session::Lane::Impl::Do(WorkLoop::Retry& retry) {
  session.LogRetry(retry.reason.message());
  if (retry.give_back.has_value()) session.client.Call(0, std::move(*retry.give_back));
  std::this_thread::sleep_for(std::chrono::duration<double>(retry.pause_seconds));
  const Status joined = retry.join ? session.Join() : Status::Ok();
  return loop.Retried(session.stopping.load() ? Status::Ok() : joined);
}

WorkLoop::Action Session::Lane::Impl::Do(const WorkLoop::Finished& finished) {
  result = Work{.kind = Work::Kind::kFinished, .finished = finished.at};
  return finished;
}

WorkLoop::Action Session::Lane::Impl::Do(const WorkLoop::Stopped& stopped) {
  result = Work{};
  return stopped;
}

WorkLoop::Action Session::Lane::Impl::Do(const WorkLoop::Failed& failed) {
  result = failed.status;
  return failed;
}

}  // namespace mf
