#include "tests/simulation/world.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "common/base/check.h"
#include "common/base/random.h"
#include "worker/config/tensors.h"

namespace mf::simulation {
namespace {

constexpr double kTickSeconds = 0.05;         // as pserver/shard/server.cpp
constexpr double kWriterSeconds = 0.002;      // the same
constexpr double kFaultSecondsMax = 60;       // then they stop
constexpr uint64_t kFaultEventsMax = 15'000;  // the same
constexpr double kFinishSecondsMax = 20;      // from the end of the faults to the end of the run
constexpr size_t kTraceMax = 150;
constexpr size_t kEventsWaitingMax = 100'000;

std::string PeerOf(size_t worker, uint64_t generation) {
  return std::to_string(worker) + "/" + std::to_string(generation);
}

std::string DescribeLease(const LeaseReply& lease) {
  return "work " + std::to_string(static_cast<int>(lease.work)) + " lease " +
         std::to_string(lease.lease) + " step " + std::to_string(lease.step) + " mb " +
         std::to_string(lease.micro_batch);
}

/// Part of a commit or a recovery: the moments at which a fault may do most harm.
bool IsHot(Op op) {
  switch (op) {
    case Op::kStatus:
    case Op::kRollback:
    case Op::kSave:
    case Op::kPrepare:
    case Op::kApply:
    case Op::kDrop:
    case Op::kStepEnded:
    case Op::kRecovered:
      return true;
    default:
      return false;
  }
}

}  // namespace

World::World(uint64_t seed, const Options& options)
    : tracing_(options.trace),
      memory_ends_(options.memory_ends),
      dice_(seed),
      memory_dice_(~seed),
      profile_(dice_),
      model_(profile_.config, profile_.servers, profile_.bad_steps, seed),
      config_text_(DescribeRun(profile_.config, "").Json()),
      servers_(profile_.servers),
      workers_(profile_.workers),
      kills_left_(profile_.kills) {
  std::vector<const Disk*> disks;
  for (const Server& server : servers_) disks.push_back(&server.disk);
  checker_ = std::make_unique<Checker>(model_, std::move(disks), tally_,
                                       [this](const std::string& what) { Fail(what); });
}

World::~World() {
  for (Process& process : workers_) process.worker.reset();
  for (Server& server : servers_) server.shard.reset();
}

std::string World::Describe() const {
  char text[256];
  std::snprintf(text, sizeof(text),
                "%zu servers, %zu workers of %d lanes, %lld steps of %lld micro-batches, snapshots "
                "every %lld steps, keep %lld, lease %.1f s, %llu kills",
                profile_.servers, profile_.workers, profile_.lanes,
                static_cast<long long>(profile_.config.train.steps),
                static_cast<long long>(profile_.config.train.micro_batches),
                static_cast<long long>(profile_.config.snapshot.every_steps),
                static_cast<long long>(profile_.config.snapshot.keep),
                profile_.config.train.lease_seconds,
                static_cast<unsigned long long>(profile_.kills));
  return text;
}

void World::Fail(const std::string& what) {
  if (!failure_.empty()) return;
  failure_ = what;
  if (tracing_) Trace("WRONG: " + what);
}

void World::Trace(const std::string& what) {
  char time[32];
  std::snprintf(time, sizeof(time), "%9.4f  ", now_);
  trace_.push_back(time + what);
  if (trace_.size() > kTraceMax) trace_.pop_front();
}

// The clock.

void World::At(double at, std::function<void()> action) {
  events_.push_back({at, next_event_++, std::move(action)});
  std::push_heap(events_.begin(), events_.end(), Later);
}

void World::InServer(size_t index, uint64_t incarnation, double at, std::function<void()> action) {
  At(at, [this, index, incarnation, action = std::move(action)]() mutable {
    Server& server = servers_[index];
    if (server.shard == nullptr || server.incarnation != incarnation) return;
    if (server.held_until > now_) {
      InServer(index, incarnation, server.held_until, std::move(action));
    } else {
      action();
    }
  });
}

void World::InServer(size_t server, double seconds, std::function<void()> action) {
  InServer(server, servers_[server].incarnation, now_ + seconds, std::move(action));
}

void World::InWorker(size_t index, uint64_t generation, double at, std::function<void()> action) {
  At(at, [this, index, generation, action = std::move(action)]() mutable {
    Process& process = workers_[index];
    if (process.worker == nullptr || process.generation != generation) return;
    if (process.held_until > now_) {
      InWorker(index, generation, process.held_until, std::move(action));
      return;
    }
    action();
    CheckWorker(index);
  });
}

void World::InWorker(size_t worker, double seconds, std::function<void()> action) {
  InWorker(worker, workers_[worker].generation, now_ + seconds, std::move(action));
}

std::string World::Run() {
  for (size_t server = 0; server < servers_.size(); ++server) StartServer(server);
  for (size_t worker = 0; worker < workers_.size(); ++worker) {
    At(dice_.Between(0, 0.3), [this, worker] { StartWorker(worker); });
  }
  while (failure_.empty() && !Finished()) {
    MF_CHECK(!events_.empty());  // servers tick for ever
    std::pop_heap(events_.begin(), events_.end(), Later);
    const Event event = std::move(events_.back());
    events_.pop_back();
    now_ = event.at;
    ++events_run_;
    digest_ = RandomKey(digest_ ^ std::bit_cast<uint64_t>(now_), event.number);
    hot_ = false;
    event.action();
    if (faults_) {
      MaybeFault();
    } else if (now_ > faults_ended_at_ + kFinishSecondsMax) {
      Fail("the run is not finished " + std::to_string(kFinishSecondsMax) +
           " s after the last fault; the coordinator is at step " +
           std::to_string(servers_[0].shard->coordinator()->step()) + ", phase " +
           servers_[0].shard->coordinator()->phase());
    }
    if (events_.size() > kEventsWaitingMax) Fail("messages pile up");
  }
  finished_at_ = now_;
  if (failure_.empty()) CheckTheEnd();
  return failure_;
}

bool World::Finished() const {
  return !faults_ && std::all_of(workers_.begin(), workers_.end(), [](const Process& process) {
    return process.worker != nullptr && process.worker->finished();
  });
}

// Processes.

void World::StartServer(size_t index) {
  Server& server = servers_[index];
  if (server.shard != nullptr) return;
  server.incarnation = next_incarnation_++;
  server.held_until = 0;
  server.ending = false;
  ++server.disk.boot_count;  // durable before it listens
  server.disk.full = false;
  if (tracing_) {
    Trace("server " + std::to_string(index) + " starts as " + std::to_string(server.incarnation));
  }
  server.store = std::make_unique<SimulatedStore>(server.disk);
  server.writer = std::make_unique<SimulatedWriter>(
      *server.store, [this, index](uint64_t increment) { SnapshotHandedOver(index, increment); });
  Shard::Options options;
  options.shard = static_cast<uint32_t>(index);
  options.shards = static_cast<uint32_t>(servers_.size());
  options.incarnation = server.incarnation;
  options.boot_count = server.disk.boot_count;
  options.memory_bytes = profile_.memory_bytes;
  options.store = server.store.get();
  options.writer = server.writer.get();
  server.shard =
      std::make_unique<Shard>(options, pool_, [this, index](const std::string& peer, Reply reply) {
        servers_[index].replies.emplace_back(peer, std::move(reply));
      });
  InServer(index, dice_.Between(0, kTickSeconds), [this, index] { Tick(index); });
  // What was queued for the dead process reaches the new one.
  for (auto& message : std::exchange(server.for_successor, {})) {
    Count(Seen::kDeliveredToSuccessor);
    At(now_ + dice_.Between(0, 0.01), std::move(message));
  }
}

void World::KillServer(size_t index, double back_after) {
  Server& server = servers_[index];
  if (server.shard == nullptr) return;
  Count(index == 0 ? Seen::kServer0Killed : Seen::kServerKilled);
  if (tracing_) Trace("server " + std::to_string(index) + " is killed");
  if (server.shard->writing_snapshot()) Count(Seen::kSnapshotLost);
  if (index == 0) CountExpired();
  server.replies.clear();
  server.shard.reset();
  server.writer.reset();
  server.store.reset();
  if (dice_.Chance(profile_.disk_trouble) && !server.disk.published.empty()) {
    auto victim = server.disk.published.begin();
    std::advance(victim, static_cast<ptrdiff_t>(dice_.Below(server.disk.published.size())));
    victim->second.damaged = true;
    Count(Seen::kSnapshotDamaged);
    if (tracing_) Trace("  its snapshot of step " + std::to_string(victim->first) + " is damaged");
  }
  At(now_ + back_after, [this, index] { StartServer(index); });
}

void World::EndServer(size_t index) {
  Server& server = servers_[index];
  if (server.shard == nullptr || std::exchange(server.ending, true)) return;
  Count(Seen::kServerEnded);
  if (tracing_) Trace("server " + std::to_string(index) + " is told to end");
  server.shard->End(now_);
  GoOnEnding(index);
}

void World::GoOnEnding(size_t index) {
  Server& server = servers_[index];
  if (!server.shard->ReadyToEnd(now_)) {
    WorkOnSnapshot(index);
    return InServer(index, kTickSeconds, [this, index] { GoOnEnding(index); });
  }
  const uint64_t step = server.shard->commit().finished();
  if (step > 0 && server.disk.published.contains(step)) Count(Seen::kSavedAtTheEnd);
  KillServer(index, DeadSeconds());
}

void World::StartWorker(size_t index) {
  Process& process = workers_[index];
  if (process.worker != nullptr) return;
  ++process.generation;
  process.held_until = 0;
  if (tracing_) {
    Trace("worker " + PeerOf(index, process.generation) + " starts");
  }
  process.worker = std::make_unique<Worker>(*this, index);
  process.worker->Start();
}

void World::KillWorker(size_t index, double back_after) {
  Process& process = workers_[index];
  if (process.worker == nullptr) return;
  if (tracing_) Trace("worker " + PeerOf(index, process.generation) + " is killed");
  process.worker.reset();
  ++process.generation;
  At(now_ + back_after, [this, index] { StartWorker(index); });
}

void World::CheckWorker(size_t index) {
  Process& process = workers_[index];
  if (process.worker == nullptr) return;
  if (process.worker->left()) return KillWorker(index, dice_.Between(0, 1));
  if (!process.worker->failure().has_value()) return;
  // Whoever started it starts it again after a time without servers; nothing else may end it.
  if (!process.worker->timed_out() && !IsOutOfMemory(process.worker->failure()->message())) {
    Fail("worker " + std::to_string(index) +
         " ended with an error: " + process.worker->failure()->message());
  }
  KillWorker(index, 0.5);
}

// The network.

void World::Transmit(size_t worker, size_t server, Seen if_dropped,
                     const std::function<void(double after)>& deliver) {
  double after = dice_.Between(0.0001, 0.003);
  if (faults_) {
    if (cut_.contains({worker, server})) return Count(Seen::kCutMessage);
    if (dice_.Chance(profile_.drop)) return Count(if_dropped);
    if (dice_.Chance(profile_.slow)) {
      Count(Seen::kSlowMessage);
      after = dice_.Between(0, profile_.slow_seconds);
    }
    if (dice_.Chance(profile_.duplicate)) {
      Count(Seen::kDuplicated);
      deliver(dice_.Chance(0.5) ? after + dice_.Between(0, 0.003)
                                : dice_.Between(0, profile_.slow_seconds));
    }
  }
  deliver(after);
}

void World::Send(size_t worker, size_t server, std::shared_ptr<const Request> request) {
  const std::string peer = PeerOf(worker, workers_[worker].generation);
  if (dice_.Chance(1.0 / 64)) {
    Count(Seen::kThroughCodec);
    Result<Request> decoded = DecodeRequest(Encode(*request));
    MF_CHECK(decoded.ok());
    request = std::make_shared<Request>(std::move(decoded).value());
  }
  Transmit(worker, server, Seen::kRequestDropped, [&](double after) {
    At(now_ + after, [this, server, peer, request] { Arrive(server, peer, request); });
  });
}

void World::Arrive(size_t index, const std::string& peer, std::shared_ptr<const Request> request) {
  Server& server = servers_[index];
  auto again = [this, index, peer, request] { Arrive(index, peer, request); };
  if (server.shard == nullptr) {
    if (dice_.Chance(0.5)) server.for_successor.push_back(std::move(again));
    return;
  }
  if (server.held_until > now_) return At(server.held_until, std::move(again));
  Handle(index, peer, *request);
}

void World::Handle(size_t index, const std::string& peer, const Request& request) {
  Server& server = servers_[index];
  if (tracing_) {
    const OpenStep at = StepOf(request);
    Trace("server " + std::to_string(index) + " <- worker " + peer + " " + OpName(request.op()) +
          " #" + std::to_string(request.id) + " epoch " + std::to_string(at.epoch >> 32) + "." +
          std::to_string(at.epoch & 0xFFFFFFFF) + " step " + std::to_string(at.step));
  }
  if (IsHot(request.op())) {
    hot_ = true;
    hot_server_ = index;
    hot_worker_ = static_cast<size_t>(std::stoul(peer));
    // Between any two messages: before this one is worked on, or before its answer goes out.
    if (faults_ && MayHurt() && dice_.Chance(profile_.hot_hazard / 2)) {
      --kills_left_;
      if (dice_.Chance(0.5)) {
        Count(Seen::kKilledBeforeReplies);
        checker_->Before(index, request, server.shard->commit());
        InMemory([&] { server.shard->Handle(peer, request, now_); });
        std::vector<std::pair<std::string, Reply>> unsent = std::exchange(server.replies, {});
        checker_->After(index, request, server.shard->commit(), unsent);
        if (tracing_) Trace("  ... works on it, and");
      }
      return KillServer(index, DeadSeconds());
    }
  }
  checker_->Before(index, request, server.shard->commit());
  InMemory([&] { server.shard->Handle(peer, request, now_); });
  checker_->After(index, request, server.shard->commit(), server.replies);
  SendReplies(index);
  if (!RestartIfLost(index)) WorkOnSnapshot(index);
}

void World::SendReplies(size_t index) {
  for (auto& [peer, reply] : std::exchange(servers_[index].replies, {})) {
    const size_t slash = peer.find('/');
    const size_t worker = std::stoul(peer);
    const uint64_t generation = std::stoull(peer.substr(slash + 1));
    if (tracing_ && (reply.code != Code::kOk || reply.op == Op::kLease)) {
      Trace("server " + std::to_string(index) + " -> worker " + peer + " " + OpName(reply.op) +
            " #" + std::to_string(reply.id) + " " +
            (reply.code != Code::kOk ? reply.message : DescribeLease(As<LeaseReply>(reply))));
    }
    std::shared_ptr<const Reply> sent = std::make_shared<Reply>(std::move(reply));
    Transmit(worker, index, Seen::kReplyDropped, [&, worker_index = worker](double after) {
      InWorker(worker_index, generation, now_ + after, [this, worker_index, index, sent] {
        workers_[worker_index].worker->OnReply(index, *sent);
      });
    });
  }
}

// Snapshots and time in servers.

void World::Tick(size_t index) {
  InMemory([&] { servers_[index].shard->Tick(now_); });
  checker_->AfterTick(servers_[index].replies);
  SendReplies(index);
  if (RestartIfLost(index)) return;
  WorkOnSnapshot(index);
  InServer(index, kTickSeconds, [this, index] { Tick(index); });
}

void World::WorkOnSnapshot(size_t index) {
  Server& server = servers_[index];
  if (!server.shard->writing_snapshot()) return;
  server.writer->busy = faults_ && dice_.Chance(0.1);
  bool more = true;
  while (more) InMemory([&] { more = server.shard->Work(now_); });
  server.writer->busy = false;
}

void World::SnapshotHandedOver(size_t index, uint64_t increment) {
  InServer(index, dice_.Between(0.0005, profile_.snapshot_seconds), [this, index, increment] {
    Server& server = servers_[index];
    const bool fails = faults_ && dice_.Chance(profile_.disk_trouble);
    server.disk.full = fails;
    server.store->failure_leaves_increment = dice_.Chance(0.5);
    const size_t before = server.disk.published.size();
    checker_->BeforePublish();
    server.writer->Complete(increment);
    checker_->AfterPublish(index);
    server.disk.full = false;
    if (server.disk.published.size() > before) {
      Count(Seen::kSnapshotPublished);
      if (tracing_) {
        Trace("server " + std::to_string(index) + " publishes step " +
              std::to_string(server.disk.published.rbegin()->first));
      }
    } else {
      Count(fails ? Seen::kSnapshotFailed : Seen::kSnapshotLost);
    }
    InServer(index, kWriterSeconds, [this, index] { WorkOnSnapshot(index); });
  });
}

// Faults.

bool World::MayHurt() const {
  if (kills_left_ == 0 || !profile_.spread) return kills_left_ > 0;
  uint64_t finished = 0;
  for (const Server& server : servers_) {
    if (server.shard != nullptr) finished = std::max(finished, server.shard->commit().finished());
  }
  const uint64_t used = profile_.kills - kills_left_;
  const uint64_t steps = static_cast<uint64_t>(profile_.config.train.steps);
  return used * (steps + 1) <= profile_.kills * finished;
}

void World::MaybeFault() {
  const bool all_done = std::all_of(workers_.begin(), workers_.end(), [](const Process& process) {
    return process.worker != nullptr && process.worker->finished();
  });
  // A finished run may be hurt, too.
  const double hazard = all_done ? 0.1 : hot_ ? profile_.hot_hazard : profile_.hazard;
  if (now_ > kFaultSecondsMax || events_run_ > kFaultEventsMax ||
      (all_done && (kills_left_ == 0 || dice_.Chance(0.05)))) {
    return EndFaults();
  }
  if (!MayHurt() || !dice_.Chance(hazard)) return;
  --kills_left_;
  const size_t server =
      hot_ && dice_.Chance(0.5) ? hot_server_ : static_cast<size_t>(dice_.Below(servers_.size()));
  const size_t worker =
      hot_ && dice_.Chance(0.7) ? hot_worker_ : static_cast<size_t>(dice_.Below(workers_.size()));
  const double lease = profile_.config.train.lease_seconds;
  switch (dice_.Below(9)) {
    case 0:
    case 1:
      return KillServer(server, DeadSeconds());
    case 2:
      if (workers_[worker].worker != nullptr) Count(Seen::kWorkerKilled);
      return KillWorker(worker, dice_.Between(0, 1));
    case 3:
    case 4:
      Count(Seen::kWorkerPaused);
      workers_[worker].held_until = now_ + lease * dice_.Between(0.5, 6);
      if (tracing_) Trace("worker " + std::to_string(worker) + " is held");
      return;
    case 5:
      Count(Seen::kServerPaused);
      servers_[server].held_until = now_ + lease * dice_.Between(0.1, 2);
      if (tracing_) Trace("server " + std::to_string(server) + " is held");
      return;
    case 6:
      return EndServer(server);
    case 7:
      if (workers_[worker].worker != nullptr) workers_[worker].worker->End();
      return;
    default:
      return Cut(worker, server, lease * dice_.Between(0.2, 4));
  }
}

double World::DeadSeconds() {
  // Now and then longer than workers wait.
  if (dice_.Chance(0.03)) return dice_.Between(10, 40);
  return dice_.Of({0.002, 0.2, 2.0}) * dice_.Between(0, 1);
}

void World::Cut(size_t worker, size_t server, double seconds) {
  Count(Seen::kPartition);
  std::vector<std::pair<size_t, size_t>> lines;
  const uint64_t kind = dice_.Below(3);  // one line, all of a worker, all of a server
  for (size_t w = 0; w < workers_.size(); ++w) {
    for (size_t s = 0; s < servers_.size(); ++s) {
      if ((kind == 0 && w == worker && s == server) || (kind == 1 && w == worker) ||
          (kind == 2 && s == server)) {
        lines.emplace_back(w, s);
      }
    }
  }
  cut_.insert(lines.begin(), lines.end());
  if (tracing_) {
    Trace(std::to_string(lines.size()) + " lines of worker " + std::to_string(worker) +
          " or server " + std::to_string(server) + " are cut");
  }
  At(now_ + seconds, [this, lines] {
    for (const auto& line : lines) cut_.erase(line);
  });
}

void World::EndFaults() {
  faults_ = false;
  faults_ended_at_ = now_;
  cut_.clear();
  if (tracing_) Trace("no more faults");
  for (size_t server = 0; server < servers_.size(); ++server) {
    servers_[server].held_until = std::min(servers_[server].held_until, now_ + 1);
    if (servers_[server].ending) KillServer(server, 0);  // it has had its time
    if (servers_[server].shard == nullptr) StartServer(server);
  }
  // One worker comes fresh and sees whatever state the servers are in; of the others each has its
  // own idea.
  const size_t fresh = static_cast<size_t>(dice_.Below(workers_.size()));
  KillWorker(fresh, 0.01);
  for (size_t worker = 0; worker < workers_.size(); ++worker) {
    if (worker != fresh) StartWorker(worker);
  }
}

// The end.

void World::CountExpired() {
  const Coordinator* coordinator = servers_[0].shard->coordinator();
  for (uint64_t i = coordinator == nullptr ? 0 : coordinator->leases_expired(); i > 0; --i) {
    Count(Seen::kLeaseExpired);
  }
}

void World::CheckTheEnd() {
  CountExpired();
  const uint64_t steps = static_cast<uint64_t>(profile_.config.train.steps);
  const Coordinator& coordinator = *servers_[0].shard->coordinator();
  if (!coordinator.finished() || coordinator.records().size() != steps) {
    return Fail("the coordinator has " + std::to_string(coordinator.records().size()) + " of " +
                std::to_string(steps) + " records and is in phase " + coordinator.phase());
  }
  for (const Process& process : workers_) {
    if (process.worker->records().size() == steps) continue;
    return Fail("a worker knows " + std::to_string(process.worker->records().size()) + " of " +
                std::to_string(steps) + " records");
  }
  for (size_t index = 0; index < servers_.size(); ++index) {
    Shard& shard = *servers_[index].shard;
    const std::string where = "at the end server " + std::to_string(index);
    if (shard.commit().epoch() != coordinator.epoch() || shard.commit().finished() != steps) {
      return Fail(where + " is at step " + std::to_string(shard.commit().finished()));
    }
    const auto ask = [&](Request request) {
      servers_[index].replies.clear();
      shard.Handle("0/0", request, now_);
      return std::exchange(servers_[index].replies, {}).at(0).second;
    };
    const Membership membership(config_text_, servers_.size());
    const uint64_t session = As<HelloReply>(ask(membership.Hellos()[index])).session;
    for (const TensorSpec& tensor : model_.tensors()) {
      const Reply values = ask({.session = session,
                                .body = PullRequest{.at = FinishedStep{coordinator.epoch(), steps},
                                                    .tensor = tensor.id,
                                                    .row_count = tensor.total_rows()},
                                .payload = {Frame()}});
      const std::vector<float> due = model_.Final(tensor.id, index);
      if (values.code != Code::kOk || values.payload[0].size() != due.size() * sizeof(float) ||
          std::memcmp(values.payload[0].data(), due.data(), values.payload[0].size()) != 0) {
        return Fail(where + " has other values in " + tensor.name + " than the sums of all steps");
      }
    }
  }
}

}  // namespace mf::simulation
