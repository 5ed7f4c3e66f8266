# The header frame of every message (DESIGN 5). Raw payload frames follow it; common/net/messages.h says
# which fields and frames each operation uses. A change here is a change of kProtocolVersion.
@0xb3d5f0a2c4e61879;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("mf::wire");

enum Op {
  hello @0;
  status @1;
  rollback @2;
  pull @3;
  push @4;
  forward @5;
  backward @6;
  listRows @7;
  prepare @8;
  apply @9;
  drop @10;
  lease @11;
  renew @12;
  microBatchDone @13;
  stepEnded @14;
  evaluated @15;
  recovered @16;
  giveBack @17;
  buckets @18;
}

struct Request {
  id @0 :UInt64;
  session @1 :UInt64;
  op @2 :Op;
  epoch @3 :UInt64;
  step @4 :UInt64;
  tensor @5 :UInt32;
  microBatch @6 :UInt32;
  tokens @7 :UInt32;
  training @8 :Bool;
  firstRow @9 :UInt64;
  rowCount @10 :UInt64;
  lease @11 :UInt64;
  lr @12 :Float64;
  scale @13 :Float64;
  value @14 :Float64;
  applied @15 :Bool;
  protocol @16 :UInt32;
  shard @17 :UInt32;
  shards @18 :UInt32;
  text @19 :Text;
  runId @20 :Text;
  incarnations @21 :List(UInt64);
  snapshot @22 :Bool;
  discard @23 :List(UInt64);
  common @24 :UInt64;
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

struct Reply {
  id @0 :UInt64;
  code @1 :UInt16;
  message @2 :Text;
  incarnation @3 :UInt64;
  session @4 :UInt64;
  epoch @5 :UInt64;
  step @6 :UInt64;
  applied @7 :Bool;
  text @8 :Text;
  work @9 :UInt16;
  microBatch @10 :UInt32;
  lease @11 :UInt64;
  leaseSeconds @12 :Float64;
  lr @13 :Float64;
  clip @14 :Float64;
  records @15 :List(StepRecord);
  published @16 :List(UInt64);
  writing @17 :UInt64;
  hadCommon @18 :UInt64;
  snapshotDue @19 :UInt16;
  snapshotKeep @20 :UInt64;
}
