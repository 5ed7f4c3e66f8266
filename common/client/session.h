// A program's part in a run: the one class with which it joins, reads and writes the tables, and
// does the work that is leased to it. What servers and other workers need of each of their peers in
// between (committing steps, recovering servers, renewing leases, saying hello again) happens
// inside.
//
//   auto session = Session::Connect({.addresses = ..., .run = ...}).value();
//   session->Join();
//   auto lane = session->NewLane();                      // one a thread
//   for (;;) {
//     Session::Work work = lane->Next().value();
//     if (work.kind == Session::Work::Kind::kMicroBatch) {
//       // session->tables(): Pull and Forward at work.open, then Push or Backward to every tensor;
//       // Wait() for all of them
//       lane->Done(sum_of_losses);
//     } ...
//   }
//
// Threads: any number of lanes, each used by one thread at a time. One thread of the session's own
// renews leases, and the client has one (client.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/client/table_client.h"
#include "common/net/step.h"
#include "common/run/run_description.h"

namespace mf {

class Client;

class Session {
 public:
  /// What a program wants to hear; all may be left out.
  struct Callbacks {
    /// Called with every step's record in the order of steps, by one thread at a time; after a
    /// rollback with those that count. An error ends the lane that was told.
    std::function<Status(const StepRecord&)> on_step = {};
    /// Called when on_step has heard all that one answer of server 0 told: those steps became known
    /// together. The first answer tells all steps so far. Errors as of on_step.
    std::function<Status()> on_told = {};
    /// Server 0 is another process, whose epochs may begin anew: what was kept by epoch is void.
    std::function<void()> on_new_coordinator = {};
  };
  struct Options {
    std::vector<std::string> addresses =
        {};                 // "tcp://HOST:PORT" of all servers, in the order of shards
    std::string keys = {};  // folder with client.key and server.pub; empty: no encryption
    RunDescription run = {};
    double deadline_seconds = 60;  // after which a call fails and names the silent servers
    std::string log =
        "info";  // what is logged to stderr: "debug", "info", "warn", "error" or "off"
    Callbacks callbacks = {};
  };

  /// What a lane has to do.
  struct Work {
    enum class Kind {
      kMicroBatch,  // contribute micro-batch `micro_batch` of `open`, then Done(sum of losses)
      kEvaluation,  // evaluate the state `finished`, then Done(mean loss on held-out data)
      kFinished,    // nothing: the run is over, and `finished` its last state
      kStopped,     // nothing: Stop() was called, or somebody has stopped the run's workers
    };
    Kind kind = Kind::kStopped;
    OpenStep open = {};
    uint32_t micro_batch = 0;
    FinishedStep finished = {};
  };

  class Lane {
   public:
    ~Lane();
    /// Waits for work. Errors are final for the run or for this process.
    Result<Work> Next();
    /// How the work that Next() gave went. Work that a server refused because the step went on
    /// without it is given back; other errors are returned by Next().
    void Done(Result<double> value);

   private:
    friend class Session;
    struct Impl;
    explicit Lane(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
  };

  /// Connects lazily: a server may come later. kInvalid for a description that no server would
  /// take, or for keys that are none.
  static Result<std::unique_ptr<Session>> Connect(Options options);
  /// Over a client that outlives the session.
  Session(Client& client, RunDescription run, Callbacks callbacks);
  /// Lanes are gone before.
  ~Session();

  /// Joins the run at all servers, or begins it. kWrongRun, naming the differences, where a server
  /// is in the middle of another one. Lanes join again by themselves after a server was restarted.
  Status Join();
  std::unique_ptr<Lane> NewLane();
  /// From any thread: no more work is asked for. The work that a lane has goes on.
  void Stop();
  /// What became of the run when this process left it.
  struct Left {
    bool reached = true;  // server 0 has answered; else all servers have ended, perhaps, each of
                          // which then saves what it has
    uint64_t others = 0;  // workers that go on with the run
    uint64_t saved = 0;   // where there are none: the last finished step, saved by all servers; 0:
                          // there was nothing to save
  };
  /// Ends this process's part in the run; its lanes are over or do nothing more. What it holds is
  /// given back. If it was the last worker, the last finished step is saved first, which is waited
  /// for. kFailed, saying why, if it is not saved within `patience_seconds`.
  Result<Left> Leave(double patience_seconds);

  const RunDescription& run() const;
  /// Reads and writes of the run's tensors.
  TableClient& tables();

 private:
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace mf
