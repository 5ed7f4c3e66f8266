// The messages between workers and servers: one struct an operation and one for its reply (DESIGN
// 5), and their wire form, one Cap'n Proto header frame (protocol.capnp), then payload frames.
// Everything here has been decoded but not believed: who receives a message checks every size, id
// and range.
//
// A new operation: its two structs and its places in Op, RequestBody and ReplyBody here, the same
// in protocol.capnp. The compiler then names what is missing: its fields (message_fields.h), the
// switches of messages.cpp, what a server does with it (Shard::Do).
//
// Payload frames (little-endian; `columns` are those of the server that is asked):
// clang-format off
//   pull       [u64 rows, rising; empty: first_row, row_count]      -> [f32 rows x columns]
//   push       [u64 rows, rising; empty with row_count = total: all]
//              [u32 hits per row, or empty][f32 rows x columns]     -> -
//   forward    [indices][f32 weights]                               -> [wire tokens x columns]
//   backward   [indices][f32 weights][wire dy tokens x columns][i8 exponents]
//                                                                   -> [i64 dots, pairs x tokens]
//   list_rows  -                                                    -> [u64 updated rows, rising]
//   prepare    -                                                    -> [f64 squares, tensor x table x block]
//   buckets    -                                                    -> [TableBuckets per table]
//   initialise -, or [u64 rows, rising][their states, row_format.h]; with `last`
//              [f64 learning rates of the applied steps]            -> -
// clang-format on
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/base/buffer.h"
#include "common/base/status.h"
#include "common/net/snapshot_state.h"
#include "common/net/step.h"
#include "common/run/versions.h"

namespace mf {

inline constexpr uint32_t kProtocolVersion = kProtocolFormat.newest;

/// In the order of RequestBody.
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
  kListRuns,
  kDeleteRun,
  kSave,
  kLeave,
  kStop,
  kInitialise,
};
inline constexpr int kOpCount = 25;
/// As in metrics and messages for people: "micro_batch_done".
const char* OpName(Op op);

/// What a server is and has.
struct RunState {
  FinishedStep finished = {};  // epoch 0: not recovered yet
  std::string description = {};
  SnapshotState snapshots = {};
  uint64_t had_common = 0;  // newest step that all servers were once said to have; 0: none
  /// What it is at while it answers, for people: "loading step 500: 38%"; empty: nothing long.
  std::string doing = {};
  /// Read-only servers: the finished steps that may be read, rising; empty: `finished` alone.
  std::vector<uint64_t> readable = {};
  bool operator==(const RunState&) const = default;
};

/// Joins the run of this description, or begins it. Without one: an observer of whatever is
/// trained, who may ask for status and buckets, and end the run (save, stop).
struct HelloRequest {
  uint32_t protocol = kProtocolVersion;
  uint32_t shard = 0;
  uint32_t shards = 0;
  std::string description = {};  // RunDescription::Json()
  bool operator==(const HelloRequest&) const = default;
};
struct HelloReply {
  uint64_t session = 0;  // stamped on every later request
  RunState state = {};
  bool operator==(const HelloReply&) const = default;
};

struct StatusRequest {
  bool operator==(const StatusRequest&) const = default;
};
struct StatusReply {
  RunState state = {};
  bool operator==(const StatusReply&) const = default;
};

/// Of the process `incarnation` and no other in its place; 0: whichever is there.
struct RollbackRequest {
  FinishedStep to = {};
  uint64_t incarnation = 0;
  bool operator==(const RollbackRequest&) const = default;
};
struct RollbackReply {
  bool operator==(const RollbackReply&) const = default;
};

/// Rows as the payload lists them, or [first_row, first_row + row_count).
struct PullRequest {
  ReadState at = {};
  uint32_t tensor = 0;
  uint64_t first_row = 0;
  uint64_t row_count = 0;
  bool operator==(const PullRequest&) const = default;
};
struct PullReply {
  bool operator==(const PullReply&) const = default;
};

/// Summed gradients of a micro-batch. row_count: of the whole tensor, where no rows are listed.
struct PushRequest {
  OpenStep at = {};
  uint32_t tensor = 0;
  uint32_t micro_batch = 0;
  uint64_t row_count = 0;
  bool operator==(const PushRequest&) const = default;
};
struct PushReply {
  bool operator==(const PushReply&) const = default;
};

/// Sums of weighted rows.
struct ForwardRequest {
  ReadState at = {};
  uint32_t tensor = 0;
  uint32_t tokens = 0;
  bool operator==(const ForwardRequest&) const = default;
};
struct ForwardReply {
  bool operator==(const ForwardReply&) const = default;
};

/// Gradients of sums: contributes to the rows, answers the dots for the weights.
struct BackwardRequest {
  OpenStep at = {};
  uint32_t tensor = 0;
  uint32_t micro_batch = 0;
  uint32_t tokens = 0;
  bool operator==(const BackwardRequest&) const = default;
};
struct BackwardReply {
  bool operator==(const BackwardReply&) const = default;
};

/// At most so many rows are listed in one answer.
inline constexpr uint64_t kListedRowsMax = 1 << 22;
/// At most row_count updated rows from first_row on, of those that the server has.
struct ListRowsRequest {
  FinishedStep at = {};
  uint32_t tensor = 0;
  uint64_t first_row = 0;
  uint64_t row_count = 0;
  bool operator==(const ListRowsRequest&) const = default;
};
struct ListRowsReply {
  bool operator==(const ListRowsReply&) const = default;
};

/// The first phase of the end of a step: nothing is added to it any more.
struct PrepareRequest {
  OpenStep at = {};
  bool operator==(const PrepareRequest&) const = default;
};
struct PrepareReply {
  std::string not_finite = {};  // the first tensor with a gradient that is not finite, or empty
  SnapshotState snapshots = {};
  bool operator==(const PrepareReply&) const = default;
};

/// The second phase: the update.
struct ApplyRequest {
  OpenStep at = {};
  double lr = 0;
  double scale = 0;      // of the gradient: clipping
  double grad_norm = 0;  // for the record
  SnapshotPlan snapshots = {};
  bool operator==(const ApplyRequest&) const = default;
};
struct ApplyReply {
  bool applied = false;  // how the step ended, which may not be as asked
  bool operator==(const ApplyReply&) const = default;
};

/// The second phase of a step whose gradient is not finite: no update.
struct DropRequest {
  OpenStep at = {};
  double grad_norm = 0;
  SnapshotPlan snapshots = {};
  bool operator==(const DropRequest&) const = default;
};
struct DropReply {
  bool applied = false;
  bool operator==(const DropReply&) const = default;
};

/// What the coordinator hands out.
enum class Work : uint16_t {
  kWait,
  kMicroBatch,
  kCommit,
  kEvaluate,
  kRecover,
  kFinished,
  kFailed,
  kStopped,  // somebody has asked for the workers' end: kStop
};

/// Asks the work coordinator, on server 0, for work. The records of steps after `known_step` of
/// `known_epoch` come with the answer.
struct LeaseRequest {
  uint64_t known_epoch = 0;
  uint64_t known_step = 0;
  std::vector<uint64_t> incarnations = {};  // of servers, as the asker knows them
  bool operator==(const LeaseRequest&) const = default;
};
struct LeaseReply {
  Work work = Work::kWait;
  uint64_t epoch = 0;
  uint64_t step = 0;         // micro-batch, commit: the open one; evaluate: the finished one
  uint32_t micro_batch = 0;  // its number in the step
  uint64_t lease = 0;
  double lease_seconds = 0;
  double lr = 0;  // commit: fixed with the first commit lease of a step
  double clip = 0;
  SnapshotDue snapshot_due = SnapshotDue::kNo;  // commit: fixed like lr
  uint64_t snapshot_keep = 0;                   // commit: of the run, whatever the holder's is
  std::string failure = {};                     // why a run failed
  std::vector<StepRecord> records = {};         // finished steps that the asker did not know

  OpenStep open() const { return {epoch, step}; }
  FinishedStep finished() const { return {epoch, step}; }
  bool operator==(const LeaseReply&) const = default;
};

struct RenewRequest {
  uint64_t lease = 0;
  bool operator==(const RenewRequest&) const = default;
};
struct RenewReply {
  bool operator==(const RenewReply&) const = default;
};

/// The holder cannot do the work: somebody else may.
struct GiveBackRequest {
  uint64_t lease = 0;
  bool operator==(const GiveBackRequest&) const = default;
};
struct GiveBackReply {
  bool operator==(const GiveBackReply&) const = default;
};

/// All servers have the micro-batch's contributions.
struct MicroBatchDoneRequest {
  OpenStep at = {};
  uint32_t micro_batch = 0;
  double loss_sum = 0;  // over its tokens
  bool operator==(const MicroBatchDoneRequest&) const = default;
};
struct MicroBatchDoneReply {
  bool operator==(const MicroBatchDoneReply&) const = default;
};

/// All servers have acknowledged the end of the step.
struct StepEndedRequest {
  OpenStep at = {};
  bool applied = false;
  double grad_norm = 0;
  std::string not_finite = {};  // the tensor for which it was dropped
  bool snapshot = false;        // one was begun of the state after it
  bool operator==(const StepEndedRequest&) const = default;
};
struct StepEndedReply {
  bool operator==(const StepEndedReply&) const = default;
};

struct EvaluatedRequest {
  FinishedStep at = {};
  double val_loss = 0;
  bool operator==(const EvaluatedRequest&) const = default;
};
struct EvaluatedReply {
  bool operator==(const EvaluatedReply&) const = default;
};

/// All servers are at `to`; or (recovered = false) one of them has seen the epoch `epoch_seen`, and
/// recovery has to be leased with a higher one.
struct RecoveredRequest {
  FinishedStep to = {};
  bool recovered = false;
  uint64_t epoch_seen = 0;
  std::vector<uint64_t> incarnations = {};  // of the servers that were recovered
  bool operator==(const RecoveredRequest&) const = default;
};
struct RecoveredReply {
  bool operator==(const RecoveredReply&) const = default;
};

/// How a memory tensor's buckets were hit; on shard 0 only.
struct BucketsRequest {
  uint32_t tensor = 0;
  bool operator==(const BucketsRequest&) const = default;
};
struct BucketsReply {
  uint64_t step = 0;  // finished
  bool operator==(const BucketsReply&) const = default;
};

/// Which runs the server holds; needs no session.
struct ListRunsRequest {
  bool operator==(const ListRunsRequest&) const = default;
};
struct StoredRun {
  std::string id = {};
  std::string about = {};  // the beginning of its description's
  uint64_t steps = 0;      // of the run
  uint64_t newest = 0;     // newest step that is on disk here; 0: none
  bool active = false;     // it is the one that this server serves now
  bool operator==(const StoredRun&) const = default;
};
struct ListRunsReply {
  std::vector<StoredRun> runs = {};
  bool operator==(const ListRunsReply&) const = default;
};

/// Deletes what is stored of a run that is not served now; needs no session.
struct DeleteRunRequest {
  std::string id = {};
  bool operator==(const DeleteRunRequest&) const = default;
};
struct DeleteRunReply {
  bool operator==(const DeleteRunReply&) const = default;
};

/// Publishes the state after `step` finished steps, if that is what the tables hold: begins now, or
/// when what is being written is done. Asked again until the answer says that it is published.
/// `by_all`: all servers have answered so; none of them may begin anew any more.
struct SaveRequest {
  uint64_t step = 0;
  bool by_all = false;
  bool operator==(const SaveRequest&) const = default;
};
struct SaveReply {
  SnapshotState snapshots = {};
  bool operator==(const SaveReply&) const = default;
};

/// A worker ends: what it holds goes back to the coordinator.
struct LeaveRequest {
  bool operator==(const LeaveRequest&) const = default;
};
struct LeaveReply {
  uint64_t workers = 0;  // that are left
  FinishedStep at = {};  // the run's last finished step; epoch 0: the servers have no state yet
  bool operator==(const LeaveReply&) const = default;
};

/// Ends the workers of the run with this id; those that come later are not meant.
struct StopRequest {
  std::string run = {};
  bool operator==(const StopRequest&) const = default;
};
struct StopReply {
  uint64_t workers = 0;  // that have not ended yet; none of a run that is over
  FinishedStep at = {};  // as in LeaveReply
  bool operator==(const StopReply&) const = default;
};

/// Brings the state that a run begins with, where it is not made from the seed
/// (RunDescription::initial), before its first recovery. An attempt is a number that no other
/// attempt has; its parts are numbered from 0, and each holds rows of one tensor, tensors and rows
/// rising. The last one makes it durable. Attempt 0 brings nothing and asks how it is.
struct InitialiseRequest {
  uint64_t attempt = 0;
  uint64_t part = 0;
  bool last = false;
  uint32_t tensor = 0;
  bool operator==(const InitialiseRequest&) const = default;
};
struct InitialiseReply {
  bool there = false;  // the whole state is on the server's disk
  bool operator==(const InitialiseReply&) const = default;
};

using RequestBody =
    std::variant<HelloRequest, StatusRequest, RollbackRequest, PullRequest, PushRequest,
                 ForwardRequest, BackwardRequest, ListRowsRequest, PrepareRequest, ApplyRequest,
                 DropRequest, LeaseRequest, RenewRequest, MicroBatchDoneRequest, StepEndedRequest,
                 EvaluatedRequest, RecoveredRequest, GiveBackRequest, BucketsRequest,
                 ListRunsRequest, DeleteRunRequest, SaveRequest, LeaveRequest, StopRequest,
                 InitialiseRequest>;
/// In the same order, behind "an error".
using ReplyBody =
    std::variant<std::monostate, HelloReply, StatusReply, RollbackReply, PullReply, PushReply,
                 ForwardReply, BackwardReply, ListRowsReply, PrepareReply, ApplyReply, DropReply,
                 LeaseReply, RenewReply, MicroBatchDoneReply, StepEndedReply, EvaluatedReply,
                 RecoveredReply, GiveBackReply, BucketsReply, ListRunsReply, DeleteRunReply,
                 SaveReply, LeaveReply, StopReply, InitialiseReply>;
static_assert(std::variant_size_v<RequestBody> == kOpCount);
static_assert(std::variant_size_v<ReplyBody> == kOpCount + 1);

struct Request {
  uint64_t id = 0;       // of the call; a repeat has the same
  uint64_t session = 0;  // from hello
  RequestBody body = StatusRequest{};
  Frames payload = {};

  Op op() const { return static_cast<Op>(body.index()); }
};

struct Reply {
  uint64_t id = 0;      // of the request
  Op op = Op::kStatus;  // of the request; not on the wire, where the id tells
  Code code = Code::kOk;
  std::string message = {};  // of an error
  uint64_t incarnation = 0;  // of the server's process
  ReplyBody body = {};
  Frames payload = {};
};

/// The body is that of a reply to `op`. Who receives an answer has checked this once; then the rest
/// may use As<>().
inline bool Answers(const Reply& reply, Op op) {
  return reply.body.index() == static_cast<size_t>(op) + 1;
}
template <class Body>
const Body& As(const Reply& reply) {
  return std::get<Body>(reply.body);
}

/// Frame 0 is the header, the rest the payload (shared, not copied).
Frames Encode(const Request& request);
Frames Encode(const Reply& reply);
/// kInvalid if the header does not parse, is larger than 8 MiB or holds an unknown operation or
/// enumerator.
Result<Request> DecodeRequest(const Frames& message);
Result<Reply> DecodeReply(const Frames& message);

}  // namespace mf
