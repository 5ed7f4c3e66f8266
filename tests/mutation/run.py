#!/usr/bin/env python3
"""Shows that the tests of the state machines notice when a check is missing.

    run.py COMPILER [BUILD] [--sixth]

Each mutation takes one check out of a copy of the sources, builds the machine's test against it and
expects a test to fail. With a BUILD folder (Ninja's, with everything built) also mutations that whole
servers are needed for: the mutated file is compiled as the build compiles it and linked before the
libraries into zombie_test and simulation_test. With --sixth only a sixth of these, another one each
day; of the others it is seen to that they can be applied. Exit code 1 if a mutant survives, if its
text is not found exactly once, or if the tests fail without any mutation.
"""
import concurrent.futures
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Machines whose tests need no library: their folders in pserver/ and tests/unit/.
FOLDERS = {"coordinator": "coordinator", "commit": "shard"}
TESTS = {"coordinator": ("coordinator_test", "coordinator_ending_test"), "commit": ("commit_test",)}

# name, machine, the text that is replaced, what replaces it
MUTATIONS = [
    ("CommitState::Admit takes any epoch", "commit",
     "  if (at.epoch != epoch_) {\n", "  if (false) {\n"),
    ("CommitState::Rollback takes older epochs", "commit",
     "  if (to.epoch <= epoch_) {\n", "  if (to.epoch == 0) {\n"),
    ("CommitState::Prepare does not wait", "commit",
     "  if (!all_in) {\n", "  if (false) {\n"),
    ("CommitState::Finish takes unprepared steps", "commit",
     "  if (!prepared_) {\n", "  if (false) {\n"),
    ("Coordinator::CheckStep takes any epoch", "coordinator",
     "  if (epoch != epoch_) {\n", "  if (false) {\n"),
    ("Coordinator::Recovered takes any epoch", "coordinator",
     "  if (epoch != epoch_ || phase_ != Phase::kRecover) {\n",
     "  if (phase_ != Phase::kRecover) {\n"),
    ("Coordinator counts a micro-batch twice", "coordinator",
     "  if (!micro_batch.done) {\n", "  {\n"),
    ("Coordinator leases commit to two", "coordinator",
     "  if (exclusive_lease_.has_value()) return false;\n", ""),
    ("Coordinator keeps a leaving worker's leases", "coordinator",
     "  for (MicroBatch& micro_batch : micro_batches_) std::erase_if(micro_batch.leases, of_session);\n", ""),
    ("Coordinator stops who is to recover the servers", "coordinator",
     " && phase_ != Phase::kRecover;\n", ";\n"),
]

# The programs that must notice.
ZOMBIE = ("zombie_test", ["--gtest_brief=1"])
SIMULATION = ("simulation_test", ["--seeds", "1500", "--failures", "1"])
LONG_SIMULATION = ("simulation_test", ["--seeds", "6000", "--failures", "1"])  # for what few schedules show
LINKED_SIMULATION = ("simulation_test", ["--seeds", "50"])  # the tests simulation_* run more of them unchanged
WORK_LOOP = ("work_loop_test", ["--gtest_brief=1"])
MESSAGES = ("messages_test", ["--gtest_brief=1"])
POWER = ("power_cuts", ["store", "--trials", "100", "--seed", "1"])
# A second start would make a name durable that the first one forgot.
POWER_FIRST_START = ("power_cuts", ["store", "--starts", "1", "--trials", "200", "--seed", "1"])
MEMORY_END = ("memory_end_test", ["--gtest_brief=1"])
ENDING = ("snapshots_test", ["--gtest_brief=1", "--gtest_filter=*WhoIsToldToEnd*"])

# Headers that are compiled as a part of one file.
INCLUDED_BY = {"common/net/message_fields.h": "common/net/messages.cpp",
               "pserver/shard/shard_run.h": "pserver/shard/shard_requests.cpp"}

# name, who must notice, source, the text that is replaced, what replaces it
SYSTEM_MUTATIONS = [
    ("late messages of an older epoch are taken", (ZOMBIE, LONG_SIMULATION), "pserver/shard/commit.cpp",
     "  if (at.epoch != epoch_) {\n", "  if (false) {\n"),
    ("rollbacks of an older epoch are taken", (ZOMBIE, SIMULATION), "pserver/shard/commit.cpp",
     "  if (to.epoch <= epoch_) {\n", "  if (to.epoch == 0) {\n"),
    ("a repeated rollback is not known again", (ZOMBIE,), "pserver/shard/commit.cpp",
     "  if (to.epoch == epoch_ && restored_ && to.step == first_) return Action::kRepeat;\n", ""),
    ("a late prepare gets the next step's answer", (SIMULATION,), "pserver/shard/commit.cpp",
     "!applied_.empty() && !prepared_)", "!applied_.empty())"),
    ("a rollback for the process before is taken", (ZOMBIE,), "pserver/shard/shard.cpp",
     "  if (rollback.incarnation != 0 && rollback.incarnation != options_.incarnation) {\n",
     "  if (false) {\n"),
    ("a rollback to a step that is gone is the worker's fault", (ZOMBIE,),
     "pserver/shard/shard.cpp",
     "return {Code::kUnavailable,\n              \"rollback to step", "return {Code::kInvalid, \"rollback to step"),
    ("a rollback leaves newer snapshots", (ZOMBIE, SIMULATION), "pserver/snapshot/snapshots.cpp",
     "  MF_RETURN_IF_ERROR(OnStore([&] { return DeleteNewer(step); }));\n", ""),
    ("a snapshot leaves out the last step's evaluation", (SIMULATION,), "pserver/snapshot/snapshots.cpp",
     "records(last_step_)", "records(last_step_ + 1)"),
    ("the newest common step is discarded", (ZOMBIE, SIMULATION), "common/client/snapshot_plan.cpp",
     "if (step < keep_from || never_common)", "if (step <= keep_from || never_common)"),
    ("recovery goes to a step that only some have", (ZOMBIE, SIMULATION),
     "common/client/snapshot_plan.cpp",
     "  plan.step = NewestCommonStep(snapshots);\n", "  plan.step = snapshots[0].published.empty() ? 0 : snapshots[0].published.back();\n"),
    ("gradients that are not finite are applied", (SIMULATION,), "common/client/lease_work.cpp",
     "end.apply = prepared.not_finite.empty() && std::isfinite(end.grad_norm);", "end.apply = true;"),
    ("the coordinator believes late ends of steps", (ZOMBIE,), "pserver/coordinator/coordinator.cpp",
     "  if (epoch != epoch_) {\n", "  if (false) {\n"),
    ("the coordinator does not mind new servers", (ZOMBIE, SIMULATION), "pserver/coordinator/coordinator.cpp",
     "return behind ? Incarnations::kWorkerIsBehind : Incarnations::kNewServer;", "return Incarnations::kKnown;"),
    ("any restart of server 0 issues the same epochs", (SIMULATION,), "pserver/coordinator/coordinator.cpp",
     "epoch_ = boot_count_ << 32 | ++epoch_counter_;", "epoch_ = uint64_t{1} << 32 | ++epoch_counter_;"),
    ("a lane does not join again", (WORK_LOOP, SIMULATION), "common/client/work_loop.cpp",
     ".join = status.code() == Code::kNotJoined};", ".join = false};"),
    ("a worker keeps the incarnations of its first hello", (WORK_LOOP, SIMULATION),
     "common/client/membership.cpp",
     "  incarnations_.clear();\n", "  if (!incarnations_.empty()) return other_coordinator;\n"),
    ("a lane forgets to give back", (WORK_LOOP,), "common/client/work_loop.cpp",
     "  if (held.has_value()) retry.give_back", "  if (false) retry.give_back"),
    ("a lane hands in another step", (WORK_LOOP, SIMULATION), "common/client/work_loop.cpp",
     "MicroBatchDoneRequest{\n        .at = work_.open(),", "MicroBatchDoneRequest{\n        .at = work_.finished().next(),"),
    ("a recovery does not have saved what is still there", (WORK_LOOP,), "common/client/lease_work.cpp",
     "  if (may_save) recovery.save = StepToSave(servers);\n", ""),
    ("a server that ends takes part in further steps", (ENDING,), "pserver/shard/shard.cpp",
     "  if (ending_since_.has_value() && prepare.at", "  if (false && prepare.at"),
    ("a server that ends does not wait for a step that it has prepared", (ENDING,), "pserver/shard/shard.cpp",
     "  if (commit_.prepared() && now - ending_since_", "  if (false && now - ending_since_"),
    ("a field of a request is not written", (MESSAGES,), "common/net/message_fields.h",
     "  w.setScale(m.scale);\n", ""),
    ("a field of a reply is not read", (MESSAGES,), "common/net/message_fields.h",
     "  m.snapshot_keep = w.getSnapshotKeep();\n", ""),
    ("memory that ends in a contribution is taken for a refusal", (MEMORY_END,), "pserver/shard/shard_run.h",
     "    lost_ = true;\n", ""),
    ("a row has a place before there is memory for it", (MEMORY_END,), "pserver/table/row_index.cpp",
     "  return slots_[i] = NewSlot(row);\n",
     "  slots_[i] = static_cast<uint32_t>(rows_.size());\n  return NewSlot(row);\n"),
    ("a new folder's name is not synced", (POWER_FIRST_START,), "common/base/files.cpp",
     "    MF_RETURN_IF_ERROR(SyncNames(FolderOf(*folder)));\n", ""),
    ("a snapshot's new name is not synced", (POWER,), "pserver/snapshot/snapshot_rocksdb.cpp",
     "  if (const Status synced = SyncPath(folder_); !synced.ok()) {\n",
     "  if (const Status synced = Status::Ok(); !synced.ok()) {\n"),
    ("the names in a snapshot are not synced", (POWER,), "pserver/snapshot/snapshot_rocksdb.cpp",
     "  MF_RETURN_IF_ERROR(SyncPath(temporary));\n", ""),
]


def command(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)


class Builder:
    """Compiles a machine and its tests in a folder of its own."""

    def __init__(self, compiler, folder):
        self.compiler = ([shutil.which("ccache")] if shutil.which("ccache") else []) + [compiler]
        self.folder = folder
        self.tests = {}

    def compile(self, source, target, include):
        made = command(*self.compiler, "-std=c++20", "-O0", f"-I{include}", f"-I{ROOT}", "-c", source,
                       "-o", target)
        if made.returncode != 0:
            sys.exit(f"mutation: {source} does not compile:\n{made.stderr}")

    def compile_test(self, machine):
        self.tests[machine] = [self.folder / f"{test}.o" for test in TESTS[machine]]
        for test, target in zip(TESTS[machine], self.tests[machine]):
            self.compile(ROOT / "tests" / "unit" / FOLDERS[machine] / f"{test}.cpp", target, ROOT)

    def test(self, number, machine, old, new):
        """The outcome of the machine's tests with `old` replaced; a fault's text if that fails."""
        folder = self.folder / str(number)
        shutil.copytree(ROOT / "pserver" / FOLDERS[machine], folder / "pserver" / FOLDERS[machine],
                        ignore=lambda _, names: [n for n in names if not n.startswith(machine)])
        source = folder / "pserver" / FOLDERS[machine] / f"{machine}.cpp"
        text = source.read_text()
        if old is not None:
            if text.count(old) != 1:
                return None, f"its text stands {text.count(old)} times in {source.name}"
            source.write_text(text.replace(old, new))
        self.compile(source, folder / "machine.o", folder)
        program = folder / "test"
        linked = command(self.compiler[-1], *self.tests[machine], folder / "machine.o", "-lgtest",
                         "-lgtest_main", "-pthread", "-o", program)
        if linked.returncode != 0:
            sys.exit(f"mutation: {machine}_test does not link:\n{linked.stderr}")
        try:
            return subprocess.run([str(program), "--gtest_brief=1"], capture_output=True,
                                  timeout=120, check=False).returncode, ""
        except subprocess.TimeoutExpired:
            return 1, ""  # a machine that never comes to an end is noticed, too


class SystemBuilder:
    """Compiles a mutated file as the build does and links it into the build's test programs."""

    def __init__(self, build):
        self.build = pathlib.Path(build).resolve()
        # A place that stays the same, so that a compiler cache knows what it has seen.
        self.folder = self.build / "mutation"
        self.compiled_by = {entry["file"]: entry["command"] for entry in
                            json.loads((self.build / "compile_commands.json").read_text())}
        self.linked_by = {program: self.link_command(program)
                          for program, _ in (ZOMBIE, SIMULATION, WORK_LOOP, MESSAGES, ENDING, POWER, MEMORY_END)}

    def link_command(self, program):
        made = command("ninja", "-C", self.build, "-t", "commands", program)
        lines = [line for line in made.stdout.splitlines() if f"-o bin/{program} " in line]
        if made.returncode != 0 or len(lines) != 1:
            sys.exit(f"mutation: ninja does not say how {program} is linked: {made.stderr}")
        return lines[0]

    def test(self, number, noticed_by, source, old, new):
        """What test programs said with `old` replaced: (name, exit code)..."""
        folder = self.folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        text = (ROOT / source).read_text()
        mutated, target = folder / source, folder / "mutated.o"
        mutated.parent.mkdir(parents=True, exist_ok=True)
        mutated.write_text(text if old is None else text.replace(old, new))
        compiled = INCLUDED_BY.get(source, source)
        compile_command = shlex.split(self.compiled_by[str(ROOT / compiled)])
        compile_command[compile_command.index("-o") + 1] = str(target)
        if compiled == source:
            compile_command[compile_command.index("-c") + 1] = str(mutated)
        else:
            first = next(i for i, word in enumerate(compile_command) if word.startswith("-I"))
            compile_command.insert(first, f"-I{folder}")  # found before the real one
        made = subprocess.run(compile_command + ["-w"], cwd=self.build, text=True, capture_output=True,
                              check=False)
        if made.returncode != 0:
            sys.exit(f"mutation: {mutated} does not compile:\n{made.stderr}")
        outcomes = []
        for name, arguments in noticed_by:
            program = folder / name
            # Before the libraries: what it defines is not taken from them.
            link = self.linked_by[name].replace(f"-o bin/{name} ", f"{target} -o {program} ")
            made = subprocess.run(link, shell=True, cwd=self.build, text=True, capture_output=True,
                                  check=False)
            if made.returncode != 0:
                sys.exit(f"mutation: {name} does not link:\n{made.stderr}")
            try:
                code = subprocess.run([str(program)] + arguments, capture_output=True, timeout=120,
                                      check=False).returncode
            except subprocess.TimeoutExpired:
                code = 1
            program.unlink()
            outcomes.append((name, code))
        return outcomes


def test_systems(build, pool, some):
    """The number of faults in mutations `some` (a slice)."""
    builder = SystemBuilder(build)
    cases = [("servers as they are", (ZOMBIE, LINKED_SIMULATION), "pserver/shard/commit.cpp", None, None)]
    cases += SYSTEM_MUTATIONS[some]
    print(f"mutation: {len(cases) - 1} of {len(SYSTEM_MUTATIONS)} mutations of whole servers")
    results = list(pool.map(lambda i: builder.test(i, *cases[i][1:]), range(len(cases))))
    faults = 0
    for name, _, source, old, _ in SYSTEM_MUTATIONS:
        if (count := (ROOT / source).read_text().count(old)) != 1:
            faults += 1
            print(f"mutation: {name}: NOT APPLIED: its text stands {count} times in {source}")
    for (name, _, _, old, _), outcomes in zip(cases, results):
        for program, code in outcomes:
            bad = (code == 0) != (old is None)
            faults += bad
            verdict = "passes" if code == 0 else "fails"
            print(f"mutation: {name}: {program} {verdict.upper() if bad else verdict}")
    return faults


def main():
    sixth = "--sixth" in sys.argv
    if sixth:
        sys.argv.remove("--sixth")
    some = slice(int(time.time() // 86400) % 6, None, 6) if sixth else slice(None)
    compiler = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CXX", "c++")
    cases = [(f"{machine} as it is", machine, None, None) for machine in ("coordinator", "commit")]
    cases += MUTATIONS
    faults = 0
    with tempfile.TemporaryDirectory(prefix="mf_mutation_") as folder, \
            concurrent.futures.ThreadPoolExecutor(2) as pool:
        builder = Builder(compiler, pathlib.Path(folder))
        list(pool.map(builder.compile_test, ("coordinator", "commit")))
        outcomes = list(pool.map(lambda i: builder.test(i, *cases[i][1:]), range(len(cases))))
        if len(sys.argv) > 2:
            faults += test_systems(sys.argv[2], pool, some)
    for (name, _, old, _), (code, fault) in zip(cases, outcomes):
        if fault:
            verdict, bad = f"NOT APPLIED: {fault}", True
        elif old is None:
            verdict, bad = ("passes", False) if code == 0 else ("FAILS", True)
        else:
            verdict, bad = ("SURVIVES", True) if code == 0 else ("is caught", False)
        faults += bad
        print(f"mutation: {name}: {verdict}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
