// A server whose run, disk and peers are small enough to be made anew for every input, and which
// takes a script of messages as a socket would bring them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/metrics/metrics.h"
#include "common/net/messages.h"
#include "common/run/run_description.h"
#include "pserver/shard/run_host.h"
#include "tests/fuzz/support/message_script.h"
#include "tests/simulation/disk.h"

namespace mf::fuzz {

/// Bits of Script::setting.
enum Setting : uint8_t {
  kBf16 = 1,
  kSparse = 2,       // no memory for tables that are addressed directly
  kSecondShard = 4,  // of two: without the work coordinator
  kNoSnapshots = 8,
  kNotRecovered = 16,  // the peers have joined, but nobody has rolled back
  kInitial = 32,       // the run begins with a state that a peer brings
};

/// The run that peers join: memory tensors of both kinds of rows and a dense one, of every
/// optimizer and update rule, a few hundred bytes each. Four steps of two micro-batches.
RunDescription TinyRun(uint8_t setting);

class ServerCase {
 public:
  /// With `joined`, both peers have said hello and, unless the setting says otherwise, the tables
  /// are at step 0.
  ServerCase(uint8_t setting, bool joined);

  /// The message as it arrives: decoded, handled, and every answer encoded and decoded again.
  void Deliver(const ScriptMessage& message);
  /// The same of a request made here; returns what was answered at once to this peer.
  std::vector<Reply> Ask(Request request, uint8_t control = 0);
  /// The script of everything that was asked so far, for seeds.
  const Script& script() const { return script_; }
  const RunDescription& run() const { return run_; }
  /// What the server finds when it rolls back.
  simulation::Disk& disk() { return disk_; }

 private:
  /// Of a hello that asks for more than a small server should hold in a test.
  static bool IsLarge(const RequestBody& body);
  void Pass(uint8_t control);
  void Receive(const std::string& peer, Reply reply);

  const RunDescription run_;
  Script script_;
  simulation::Disk disk_;
  simulation::Disk initial_disk_;
  simulation::SimulatedStore store_, initial_;
  simulation::SimulatedWriter writer_;
  Metrics metrics_;
  ThreadPool pool_{1};
  std::array<uint64_t, 2> sessions_{};
  std::vector<std::pair<std::string, Reply>> replies_;
  double now_ = 1000;
  bool writer_waits_ = false;
  std::unique_ptr<RunHost> host_;  // uses the others
};

/// Runs the script in `text`.
void RunScript(std::string_view text, bool joined);

}  // namespace mf::fuzz
