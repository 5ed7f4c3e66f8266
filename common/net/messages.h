// The messages between workers and servers as plain structs (DESIGN 5), and their wire form: one
// Cap'n Proto header frame, then payload frames. Everything here has been decoded but not believed:
// who receives a message checks every size, id and range before use.
//
// Frames and fields by operation (all numbers little-endian; `columns` are the server's own):
// clang-format off
//   hello      protocol, shard, shards, runId (empty: an observer, who may ask for status and
//              buckets only), text = CanonicalJson
//                                 -> session, and as status
//   status     -                  -> incarnation, epoch, step, text = CanonicalJson, snapshots,
//                                    hadCommon
//   rollback   epoch, step, incarnations = [the server's, as status told it]
//                                 -> - (answered the same if repeated)
//   pull       tensor, training; [u64 rows] or firstRow, rowCount   -> [f32 rows x columns]
//   listRows   tensor, firstRow, rowCount (at most)                 -> [u64 updated rows, rising]
//   forward    tensor, tokens, training; [indices][f32 weights]     -> [wire tokens x columns]
//   backward   tensor, microBatch, tokens; [indices][f32 weights][wire dy tokens x columns]
//              [i8 exponents]     -> [i64 dots, pairs x tokens]
//   push       tensor, microBatch; [u64 rows, rising; empty with rowCount = total: all]
//              [u32 hits per row, or empty][f32 values]             -> -
//   prepare    step               -> [f64 squares, tensor x table x block], text = not finite,
//                                    snapshots
//   apply      step, lr, scale, value = gradient norm, snapshot, common, discard
//                                 -> applied (how the step ended)
//   drop       step, value, snapshot, common, discard   -> applied
//   buckets    tensor             -> [TableBuckets per table] (common/metrics/bucket_summary.h), step;
//              shard 0 only
// To the work board, on shard 0:
//   lease      epoch, step = last record known, incarnations
//                                 -> work, step, microBatch, lease..., records; commit: lr,
//                                    clip, snapshotDue, snapshotKeep
//   renew, giveBack  lease        -> -
//   microBatchDone   step, microBatch, lease, value = loss sum      -> -
//   stepEnded  step, applied, value = gradient norm, text = tensor that was not finite,
//              snapshot           -> -
//   evaluated  step, value = val_loss                               -> -
//   recovered  epoch, step, incarnations; applied = false: value = bits of the epoch seen -> -
// clang-format on
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/status.h"
#include "common/client/snapshot_plan.h"

namespace mf {

inline constexpr uint32_t kProtocolVersion = 2;

enum class Op : uint16_t {
  kHello,
  kStatus,
  kRollback,
  kPull,
  kPush,
  kForward,
  kBackward,
  kListRows,
  kPrepare,
  kApply,
  kDrop,
  kLease,
  kRenew,
  kMicroBatchDone,
  kStepEnded,
  kEvaluated,
  kRecovered,
  kGiveBack,
  kBuckets,
};
inline constexpr int kOpCount = 19;
const char* OpName(Op op);

struct Request {
  uint64_t id = 0;
  uint64_t session = 0;
  Op op = Op::kStatus;
  uint64_t epoch = 0;
  uint64_t step = 0;
  uint32_t tensor = 0;
  uint32_t micro_batch = 0;
  uint32_t tokens = 0;
  bool training = false;
  uint64_t first_row = 0;
  uint64_t row_count = 0;
  uint64_t lease = 0;
  double lr = 0;
  double scale = 0;
  double value = 0;
  bool applied = false;
  uint32_t protocol = kProtocolVersion;
  uint32_t shard = 0;
  uint32_t shards = 0;
  std::string text;
  std::string run_id;
  std::vector<uint64_t> incarnations;  // of servers, as the sender knows them
  bool snapshot = false;
  uint64_t common = 0;            // newest step that all servers have published
  std::vector<uint64_t> discard;  // steps whose snapshots are to be deleted
  Frames payload;
};

/// What the board hands out.
enum class Work : uint16_t { kWait, kMicroBatch, kCommit, kEvaluate, kRecover, kFinished, kFailed };

/// One line of metrics.jsonl, the same for every worker.
struct StepRecord {
  uint64_t step = 0;
  double loss = 0;
  double lr = 0;
  double grad_norm = 0;
  double val_loss = 0;
  bool has_val_loss = false;
  bool dropped = false;
};

struct Reply {
  Op op = Op::kStatus;  // of the request; not on the wire, where the id tells
  uint64_t id = 0;
  Code code = Code::kOk;
  std::string message;
  uint64_t incarnation = 0;
  uint64_t session = 0;
  uint64_t epoch = 0;
  uint64_t step = 0;
  bool applied = false;
  std::string text;
  Work work = Work::kWait;
  uint32_t micro_batch = 0;
  uint64_t lease = 0;
  double lease_seconds = 0;
  double lr = 0;
  double clip = 0;
  std::vector<StepRecord> records;
  SnapshotState snapshots;
  uint64_t had_common = 0;
  SnapshotDue snapshot_due = SnapshotDue::kNo;
  uint64_t snapshot_keep = 0;
  Frames payload;
};

/// Frame 0 is the header, the rest the payload (shared, not copied).
Frames Encode(const Request& request);
Frames Encode(const Reply& reply);
/// kInvalid if the header does not parse, is larger than 8 MiB or holds an unknown enumerator.
Result<Request> DecodeRequest(const Frames& message);
Result<Reply> DecodeReply(const Frames& message);

}  // namespace mf
