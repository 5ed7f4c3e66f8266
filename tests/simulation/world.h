// A run in simulated time: real servers (pserver/shard/shard.h) and workers that speak the real
// protocol, with a clock, a network, disks and faults between them, all driven by one seed.
// Single-threaded; the same seed gives the same run.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/thread_pool.h"
#include "pserver/shard/shard.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/dice.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/model.h"
#include "tests/simulation/profile.h"
#include "tests/simulation/tally.h"
#include "tests/simulation/worker.h"

namespace mf::simulation {

class World {
 public:
  struct Options {
    bool trace = false;        // events are described and the last ones kept
    bool memory_ends = false;  // in servers, now and then, at any allocation
  };
  World(uint64_t seed, const Options& options);
  ~World();

  /// Runs the schedule. Empty if all is well, else what is wrong.
  std::string Run();

  const Tally& tally() const { return tally_; }
  const std::deque<std::string>& trace() const { return trace_; }
  /// Of everything that happened: equal for equal runs.
  uint64_t digest() const { return digest_; }
  double now() const { return now_; }
  uint64_t events() const { return events_run_; }
  /// Simulated seconds from the end of the faults to the end of the run.
  double seconds_to_finish() const { return finished_at_ - faults_ended_at_; }
  std::string Describe() const;

  // For workers.
  Dice& dice() { return dice_; }
  const Profile& profile() const { return profile_; }
  const RunModel& model() const { return model_; }
  const std::string& config_text() const { return config_text_; }
  void Count(Seen what) { tally_.Add(what); }
  const Checker& checker() const { return *checker_; }
  void Fail(const std::string& what);
  bool tracing() const { return tracing_; }
  void Trace(const std::string& what);
  bool faults() const { return faults_; }
  /// `action` in the worker's process after `seconds`; later if it is held then, never if it dies
  /// before.
  void InWorker(size_t worker, double seconds, std::function<void()> action);
  void Send(size_t worker, size_t server, std::shared_ptr<const Request> request);

 private:
  struct Event {
    double at;
    uint64_t number;  // events at the same time come in the order in which they were made
    std::function<void()> action;
  };
  static bool Later(const Event& a, const Event& b) {
    return a.at != b.at ? a.at > b.at : a.number > b.number;
  }
  struct Server {
    Disk disk;
    uint64_t incarnation = 0;
    double held_until = 0;
    bool ending = false;  // told to
    std::unique_ptr<SimulatedStore> store;
    std::unique_ptr<SimulatedWriter> writer;
    std::unique_ptr<Shard> shard;                        // none: the process is dead
    std::vector<std::pair<std::string, Reply>> replies;  // not sent yet, by peer
    std::vector<std::function<void()>> for_successor;
  };
  struct Process {
    std::unique_ptr<Worker> worker;  // none: dead
    uint64_t generation = 0;
    double held_until = 0;
  };

  void At(double at, std::function<void()> action);
  void InServer(size_t server, double seconds, std::function<void()> action);
  void InServer(size_t server, uint64_t incarnation, double at, std::function<void()> action);
  void InWorker(size_t worker, uint64_t generation, double at, std::function<void()> action);

  void StartServer(size_t server);
  void KillServer(size_t server, double back_after);
  /// As SIGTERM does: it saves its state, then it is gone.
  void EndServer(size_t server);
  void GoOnEnding(size_t server);
  void StartWorker(size_t worker);
  void KillWorker(size_t worker, double back_after);
  void CheckWorker(size_t worker);

  /// One message over the line between a worker and a server: lost, late, doubled or just sent.
  void Transmit(size_t worker, size_t server, Seen if_dropped,
                const std::function<void(double after)>& deliver);
  void Arrive(size_t server, const std::string& peer, std::shared_ptr<const Request> request);
  void Handle(size_t server, const std::string& peer, const Request& request);
  void SendReplies(size_t server);
  /// Runs `work` of a server, in which memory may end.
  void InMemory(const std::function<void()>& work);
  /// As the process's RunHost does: what is lost is begun anew.
  bool RestartIfLost(size_t server);
  void Tick(size_t server);
  void WorkOnSnapshot(size_t server);
  void SnapshotHandedOver(size_t server, uint64_t increment);

  /// There is a kill, pause or partition left for this part of the run.
  bool MayHurt() const;
  void MaybeFault();
  void Cut(size_t worker, size_t server, double seconds);
  double DeadSeconds();
  void EndFaults();
  bool Finished() const;
  void CheckTheEnd();
  void CountExpired();

  const bool tracing_, memory_ends_;
  Dice dice_;
  Dice memory_dice_;  // of its own: schedules are the same without
  const Profile profile_;
  const RunModel model_;
  const std::string config_text_;
  ThreadPool pool_{1};
  Tally tally_;
  std::unique_ptr<Checker> checker_;
  double now_ = 0;
  uint64_t next_event_ = 0, events_run_ = 0, digest_ = 0;
  std::vector<Event> events_;  // a heap
  std::vector<Server> servers_;
  std::vector<Process> workers_;
  uint64_t next_incarnation_ = 1000;
  std::set<std::pair<size_t, size_t>> cut_;  // worker, server
  bool faults_ = true;
  bool hot_ = false;  // the last event was part of a commit or a recovery
  size_t hot_server_ = 0, hot_worker_ = 0;
  uint64_t kills_left_ = 0;
  double faults_ended_at_ = 0, finished_at_ = 0;
  std::string failure_;
  std::deque<std::string> trace_;
};

}  // namespace mf::simulation
