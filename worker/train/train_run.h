// One `worker train` from beginning to end: data, servers, training, reports, export.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/net/transport.h"
#include "worker/compute/compute.h"
#include "worker/config/config.h"
#include "worker/data/batch_source.h"
#include "worker/export/export.h"
#include "worker/train/initial_model.h"
#include "worker/train/repeat.h"

namespace mf {

struct TrainOptions {
  Config config;
  std::optional<Repetition> repeat;  // the run that is to be done again with `config` and `data`
  std::string data;                  // text file, directory or .bin
  std::string validation;            // empty: the last part of `data`
  InitialModel::Options init;        // what the run begins with
  std::string out;
  std::vector<std::string> pservers;  // addresses in shard order; empty: embedded servers
  std::string keys;                   // folder for `pservers`; empty: none
  int shards = 1;                     // embedded servers
  int threads = 1;                    // of the worker
  Backend backend = Backend::kAuto;
  int server_threads = 1;     // of each embedded server
  uint64_t memory_bytes = 0;  // of all embedded servers; 0: 70% of the machine's
  bool no_lock = false;       // embedded servers go on where `out` cannot be locked
  bool fresh = false;         // refuse an `out` that holds a run
  std::string export_path;    // empty: none
  ExportRows export_rows = ExportRows::kAll;
  std::string metrics_address;  // "host:port" of /metrics; empty: not served
  std::FILE* progress = nullptr;
  double grace_seconds = 45;  // at most so long a stopped run's last step is being saved
  double resend_seconds = 0;  // first repeat of an unanswered request; 0: the client's default
  /// Called when the data is open and the run begins: from then on RequestStop() ends it well.
  std::function<void()> on_begin = {};
  /// Tests put a misbehaving transport around the real one here.
  std::function<std::unique_ptr<ClientTransport>(std::unique_ptr<ClientTransport>)> wrap_transport;
  /// Tests put another backend here, instead of `backend`.
  std::function<Result<std::unique_ptr<Compute>>(const Config&, const std::vector<TensorSpec>&)>
      make_compute;
};

/// What went over the wire, for tests and benchmarks.
struct TrainSummary {
  uint64_t micro_batches = 0;
  uint64_t forward_calls = 0, backward_calls = 0;   // exchanges of memory layers by pushdown
  uint64_t forward_sent = 0, forward_received = 0;  // bytes
  uint64_t backward_sent = 0, backward_received = 0;
  uint64_t resends = 0;  // requests that were sent again because no answer came
  double seconds = 0;
  /// It ended before the last step, by a signal or because somebody stopped the run's workers.
  bool stopped = false;
};

/// kInvalid for bad input, kFailed for what goes wrong on the way. Ok, too, if it was stopped: what
/// was leased is given back, and the last worker has the last finished step saved by all servers.
Status Train(const TrainOptions& options, TrainSummary* summary = nullptr);

/// Asks a Train() in progress to end; async-signal-safe.
void RequestStop();
bool StopRequested();

}  // namespace mf
