// A program's part in a run: the one class with which it joins, reads and writes the tables, and
// does the work that is leased to it. What servers and other workers need of each of their peers in
// between (committing steps, recovering servers, renewing leases, saying hello again) happens
// inside.
//
//   auto session = Session::Connect(context, {.addresses = ..., ...});   // then session->Join()
//   auto lane = session->NewLane();                                      // one a thread
//   for (;;) {
//     Result<Session::Work> work = lane->Next();
//     if (work.kind == kMicroBatch) { pull, forward, ...; push, backward, ...;
//     lane->Done(loss_sum); }
//   }
//
// Threads: any number of lanes, each used by one thread at a time. One thread of the session's own
// renews leases, and the client has one (client.h).
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/client/client.h"
#include "common/client/membership.h"
#include "common/client/table_client.h"
#include "common/client/work_loop.h"
#include "common/run/run_description.h"

namespace mf {

class Session {
 public:
  struct Options {
    /// Called with every step's record in the order of steps, by one thread at a time; after a
    /// rollback with those that count. An error ends the lane that was told.
    std::function<Status(const StepRecord&)> on_step = {};
    /// Server 0 is another process, whose epochs may begin anew: what was kept by epoch is void.
    std::function<void()> on_new_board = {};
  };

  /// What a lane has to do.
  struct Work {
    enum class Kind {
      kMicroBatch,  // contribute micro-batch `micro_batch` of `open`, then Done(sum of losses)
      kEvaluation,  // evaluate the state `finished`, then Done(mean loss on held-out data)
      kFinished,    // nothing: the run is over, and `finished` its last state
      kStopped,     // nothing: Stop() was called
    };
    Kind kind = Kind::kStopped;
    OpenStep open = {};
    uint32_t micro_batch = 0;
    FinishedStep finished = {};
  };

  class Lane {
   public:
    /// Waits for work. Errors are final for the run or for this process.
    Result<Work> Next();
    /// How the work that Next() gave went. Work that a server refused because the step went on
    /// without it is given back; other errors are returned by Next().
    void Done(Result<double> value);

   private:
    friend class Session;
    explicit Lane(Session& session);
    Session& session_;
    WorkLoop loop_;
    WorkLoop::Action action_;
  };

  /// All references outlive the session.
  Session(Client& client, const RunDescription& run, Options options);
  /// Lanes are gone before.
  ~Session();

  /// Joins the run at all servers, or begins it. Again after a server was restarted (lanes do it).
  Status Join();
  std::unique_ptr<Lane> NewLane() { return std::unique_ptr<Lane>(new Lane(*this)); }
  /// From any thread: no more work is asked for.
  void Stop() { stopping_.store(true); }
  bool stopping() const { return stopping_.load(); }

  /// Reads and writes of tensors.
  TableClient& tables() { return tables_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct HeldLease {
    std::chrono::duration<double> between;  // renewals
    Clock::time_point next;
  };
  Result<LeaseReply> AskBoard();
  /// Tells on_step what is new.
  Status TakeRecords(const LeaseReply& lease, bool* news);
  void Hold(const WorkLoop::Lease& lease);
  void LetGo(uint64_t lease);
  /// The work of renewer_.
  void RenewLeases();

  Client& client_;
  const Options options_;
  TableClient tables_;
  std::atomic<bool> stopping_{false};

  std::mutex join_mutex_;  // one hello at a time; taken before membership_mutex_
  std::mutex membership_mutex_;
  Membership membership_;     // guarded by membership_mutex_
  std::mutex records_mutex_;  // held while on_step is called; taken before membership_mutex_

  std::mutex leases_mutex_;
  std::condition_variable leases_changed_;
  std::map<uint64_t, HeldLease> leases_;  // guarded by leases_mutex_: by id
  bool changed_ = false;                  // guarded by leases_mutex_
  bool closing_ = false;                  // guarded by leases_mutex_
  std::thread renewer_;
};

}  // namespace mf
