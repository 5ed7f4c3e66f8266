# The header frame of every message (DESIGN 5). Raw payload frames follow it; common/net/messages.h has the
# same structs with what their fields mean. A change here is a change of the protocol's version
# (common/run/versions.h), which a hello carries. What is asked or answered without a hello before it (hello itself,
# listRuns, deleteRun, error) only ever gets fields that may be missing, so that versions can tell each other.
@0xb3d5f0a2c4e61879;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("mf::wire");

struct Request {
  id @0 :UInt64;
  session @1 :UInt64;
  union {
    hello @2 :HelloRequest;
    status @3 :Void;
    rollback @4 :RollbackRequest;
    pull @5 :PullRequest;
    push @6 :PushRequest;
    forward @7 :ForwardRequest;
    backward @8 :BackwardRequest;
    listRows @9 :ListRowsRequest;
    prepare @10 :PrepareRequest;
    apply @11 :ApplyRequest;
    drop @12 :DropRequest;
    lease @13 :LeaseRequest;
    renew @14 :RenewRequest;
    microBatchDone @15 :MicroBatchDoneRequest;
    stepEnded @16 :StepEndedRequest;
    evaluated @17 :EvaluatedRequest;
    recovered @18 :RecoveredRequest;
    giveBack @19 :GiveBackRequest;
    buckets @20 :BucketsRequest;
    listRuns @21 :Void;
    deleteRun @22 :DeleteRunRequest;
    save @23 :SaveRequest;
    leave @24 :Void;
    stop @25 :StopRequest;
    initialise @26 :InitialiseRequest;
  }
}

struct Reply {
  id @0 :UInt64;
  incarnation @1 :UInt64;
  union {
    error @2 :Error;
    hello @3 :HelloReply;
    status @4 :StatusReply;
    rollback @5 :Void;
    pull @6 :Void;
    push @7 :Void;
    forward @8 :Void;
    backward @9 :Void;
    listRows @10 :Void;
    prepare @11 :PrepareReply;
    apply @12 :ApplyReply;
    drop @13 :DropReply;
    lease @14 :LeaseReply;
    renew @15 :Void;
    microBatchDone @16 :Void;
    stepEnded @17 :Void;
    evaluated @18 :Void;
    recovered @19 :Void;
    giveBack @20 :Void;
    buckets @21 :BucketsReply;
    listRuns @22 :ListRunsReply;
    deleteRun @23 :Void;
    save @24 :SaveReply;
    leave @25 :LeaveReply;
    stop @26 :StopReply;
    initialise @27 :InitialiseReply;
  }
}

struct Error {
  code @0 :UInt16;
  message @1 :Text;
}

struct Step {
  epoch @0 :UInt64;
  step @1 :UInt64;
}

struct ReadState {
  union {
    finished @0 :Step;
    open @1 :Step;
  }
}

struct SnapshotState {
  published @0 :List(UInt64);
  writing @1 :UInt64;
}

struct SnapshotPlan {
  take @0 :Bool;
  common @1 :UInt64;
  discard @2 :List(UInt64);
}

struct RunState {
  finished @0 :Step;
  description @1 :Text;
  snapshots @2 :SnapshotState;
  hadCommon @3 :UInt64;
  doing @4 :Text;
  readable @5 :List(UInt64);
}

struct HelloRequest {
  protocol @0 :UInt32;
  shard @1 :UInt32;
  shards @2 :UInt32;
  description @3 :Text;
}

struct HelloReply {
  session @0 :UInt64;
  state @1 :RunState;
}

struct StatusReply {
  state @0 :RunState;
}

struct RollbackRequest {
  to @0 :Step;
  incarnation @1 :UInt64;
}

struct PullRequest {
  at @0 :ReadState;
  tensor @1 :UInt32;
  firstRow @2 :UInt64;
  rowCount @3 :UInt64;
}

struct PushRequest {
  at @0 :Step;
  tensor @1 :UInt32;
  microBatch @2 :UInt32;
  rowCount @3 :UInt64;
}

struct ForwardRequest {
  at @0 :ReadState;
  tensor @1 :UInt32;
  tokens @2 :UInt32;
}

struct BackwardRequest {
  at @0 :Step;
  tensor @1 :UInt32;
  microBatch @2 :UInt32;
  tokens @3 :UInt32;
}

struct ListRowsRequest {
  at @0 :Step;
  tensor @1 :UInt32;
  firstRow @2 :UInt64;
  rowCount @3 :UInt64;
}

struct PrepareRequest {
  at @0 :Step;
}

struct PrepareReply {
  notFinite @0 :Text;
  snapshots @1 :SnapshotState;
}

struct ApplyRequest {
  at @0 :Step;
  lr @1 :Float64;
  scale @2 :Float64;
  gradNorm @3 :Float64;
  snapshots @4 :SnapshotPlan;
}

struct ApplyReply {
  applied @0 :Bool;
}

struct DropRequest {
  at @0 :Step;
  gradNorm @1 :Float64;
  snapshots @2 :SnapshotPlan;
}

struct DropReply {
  applied @0 :Bool;
}

struct LeaseRequest {
  knownEpoch @0 :UInt64;
  knownStep @1 :UInt64;
  incarnations @2 :List(UInt64);
}

struct StepRecord {
  step @0 :UInt64;
  loss @1 :Float64;
  lr @2 :Float64;
  gradNorm @3 :Float64;
  valLoss @4 :Float64;
  hasValLoss @5 :Bool;
  dropped @6 :Bool;
}

struct LeaseReply {
  work @0 :UInt16;
  epoch @1 :UInt64;
  step @2 :UInt64;
  microBatch @3 :UInt32;
  lease @4 :UInt64;
  leaseSeconds @5 :Float64;
  lr @6 :Float64;
  clip @7 :Float64;
  snapshotDue @8 :UInt16;
  snapshotKeep @9 :UInt64;
  failure @10 :Text;
  records @11 :List(StepRecord);
}

struct RenewRequest {
  lease @0 :UInt64;
}

struct GiveBackRequest {
  lease @0 :UInt64;
}

struct MicroBatchDoneRequest {
  at @0 :Step;
  microBatch @1 :UInt32;
  lossSum @2 :Float64;
}

struct StepEndedRequest {
  at @0 :Step;
  applied @1 :Bool;
  gradNorm @2 :Float64;
  notFinite @3 :Text;
  snapshot @4 :Bool;
}

struct EvaluatedRequest {
  at @0 :Step;
  valLoss @1 :Float64;
}

struct RecoveredRequest {
  to @0 :Step;
  recovered @1 :Bool;
  epochSeen @2 :UInt64;
  incarnations @3 :List(UInt64);
}

struct BucketsRequest {
  tensor @0 :UInt32;
}

struct BucketsReply {
  step @0 :UInt64;
}

struct StoredRun {
  id @0 :Text;
  about @1 :Text;
  steps @2 :UInt64;
  newest @3 :UInt64;
  active @4 :Bool;
}

struct ListRunsReply {
  runs @0 :List(StoredRun);
}

struct DeleteRunRequest {
  id @0 :Text;
}

struct SaveRequest {
  step @0 :UInt64;
  byAll @1 :Bool;
}

struct SaveReply {
  snapshots @0 :SnapshotState;
}

struct LeaveReply {
  workers @0 :UInt64;
  at @1 :Step;
}

struct StopRequest {
  run @0 :Text;
}

struct StopReply {
  workers @0 :UInt64;
  at @1 :Step;
}

struct InitialiseRequest {
  attempt @0 :UInt64;
  part @1 :UInt64;
  last @2 :Bool;
  tensor @3 :UInt32;
}

struct InitialiseReply {
  there @0 :Bool;
}
