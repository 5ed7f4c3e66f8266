// Reads a run's model at its servers, as an observer: nothing is left behind, and no worker waits
// for it. Servers of snapshots (pserver serve --read-only) have one state or two; those of a run
// that is trained have the newest alone, until its next step ends.
//
//   auto reader = Reader::Open({.servers = ...}).value();
//   reader->AtOneState([&] {
//     return reader->tables().Pull(reader->at(), tensor, rows, values).Wait();
//   });
//
// One thread at a time. Readers of other threads are independent.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/client/table_client.h"
#include "common/net/step.h"
#include "common/run/run_description.h"

namespace mf {

struct Connection;

class Reader {
 public:
  struct Options {
    std::vector<std::string> servers = {};  // "tcp://HOST:PORT" of all, in the order of shards
    std::string keys = {};         // folder with client.key and server.pub; empty: no encryption
    double deadline_seconds = 10;  // of silent servers, and of those that do not agree on a state
  };
  /// At the newest state that all servers have. kInvalid for addresses or keys that are none;
  /// kFailed or the servers' own code, naming the server, if one is not there, has no run, or
  /// another one than the others.
  static Result<std::unique_ptr<Reader>> Open(const Options& options);
  ~Reader();

  const RunDescription& run() const { return run_; }
  /// As the servers sent it: RunDescription::Json().
  const std::string& description() const { return description_; }
  /// The state to read: it stays until Refresh().
  FinishedStep at() const { return at_; }
  TableClient& tables() { return *tables_; }

  /// Goes to the newest state that all servers have. True if it is another one than before.
  Result<bool> Refresh();
  /// The outcome of `read()`, reads at at(). It is called again for servers that were started again
  /// meanwhile and have the state; HasGone() where they do not.
  Status Read(const std::function<Status()>& read);
  /// The same, and all of `read()` once more after a Refresh() where its state has gone: what it
  /// has read in the end is of at().
  Status AtOneState(const std::function<Status()>& read);
  /// The error says that the state that was read is there no more.
  static bool HasGone(const Status& status);

  /// Calls to silent servers fail soon. From any thread.
  void Stop();

 private:
  /// What all servers have.
  struct Seen {
    std::string description;
    std::vector<FinishedStep> states;  // rising; never none
  };

  Reader(std::unique_ptr<Connection> connection, double deadline_seconds);
  /// Says hello to all until they agree.
  Result<Seen> Greet();
  Result<Seen> GreetOnce();
  /// Greet() for the run that is read.
  Result<std::vector<FinishedStep>> States();

  const std::unique_ptr<Connection> connection_;
  const double deadline_seconds_;
  std::string description_;
  RunDescription run_;
  std::unique_ptr<TableClient> tables_;
  FinishedStep at_;
};

}  // namespace mf
