"""Goal: after a power cut at any moment, whatever of its unsynced changes the disk has forgotten, what was
acknowledged is there and nothing is half there. A store that publishes, merges and deletes, the servers of a run that
are killed, ended and started again, and all programs that leave files behind are recorded (recorder.cpp); the
recordings are cut and what is left is read by the production code (main.cpp). On some of what is left of the servers
a cluster is started, which has to end with the model of an undisturbed run.
Usage: power_test.py PATH_OF_WORKER PATH_OF_PSERVER PATH_OF_POWER_CUTS PATH_OF_RECORDER [--trials N] [--seed S]
[--starts N]"""

import argparse
import fcntl
import glob
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

from cluster_case import DEADLINE, ClusterCase

HEAD = struct.Struct("<IIQQQQ")  # tests/power/record.h
ROOT, MAKE_FOLDER, SYNC_BEGIN, SYNC_END, SAID = 1, 3, 9, 10, 11
SERVERS = 2
SERIES = "mf_snapshot_last_step"
ARGUMENTS = argparse.Namespace(trials=200, seed=0, starts=2, cuts="", recorder="")


class Recording:
    """A folder whose changes are recorded, and the file with the records."""

    def __init__(self, folder: str, name: str) -> None:
        self.root = os.path.join(os.path.realpath(folder), name)
        self.log = os.path.join(folder, name + ".log")
        os.mkdir(self.root)
        self._add(ROOT, self.root, self.root)

    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": ARGUMENTS.recorder, "MF_POWER_LOG": self.log, "MF_POWER_ROOT": self.root}

    def say(self, words: str) -> None:
        """Something that the world knows from now on."""
        self._add(SAID, data=words)

    def make_folder(self, name: str) -> str:
        """One in the root that nothing takes away: where a disk is mounted."""
        path = os.path.join(self.root, name)
        os.mkdir(path)
        self._add(MAKE_FOLDER, path, path)
        self._add(SYNC_BEGIN, self.root)
        self._add(SYNC_END, self.root)
        return path

    def _add(self, op: int, of: str = "", path: str = "", data: str = "") -> None:
        number = os.stat(of).st_ino if of else 0
        record = HEAD.pack(op, os.getpid(), number, 0, len(path), len(data)) + path.encode() + data.encode()
        with open(self.log, "ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(record)


class Watcher(threading.Thread):
    """Asks servers for their newest snapshot all the time, and tells the recording."""

    def __init__(self, case: "Power", recording: Recording) -> None:
        super().__init__()
        self.case, self.recording = case, recording
        self.told: set[tuple[int, int]] = set()
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            for shard in range(SERVERS):
                try:
                    step = int(self.case.metric(shard, SERIES))
                except OSError:
                    continue  # it is down
                if step > 0 and (shard, step) not in self.told:
                    self.told.add((shard, step))
                    self.recording.say(f"saved {shard} {step}\n")
            time.sleep(0.005)

    def stop(self) -> None:
        self.ending.set()
        self.join()


class Power(ClusterCase):
    # Small tables: what is left of each cut is read from its first to its last byte.
    CONFIG = ClusterCase.CONFIG.replace("K = 8\ntau = 8", "K = 16\ntau = 4") + "[snapshot]\nevery_steps = 4\n"
    SEED = 0

    def setUp(self) -> None:
        super().setUp()
        self.preload: Recording | None = None

    def start(self, command: list[str], log: str) -> subprocess.Popen:
        if self.preload is None or command[0] != self.PSERVER:
            return super().start(command, log)
        # As `env` does it: only this process is recorded.
        settings = [f"{name}={value}" for name, value in self.preload.environment().items()]
        return super().start(["env", *settings, *command], log)

    def cut(self, kind: str, recording: Recording, trials: int) -> None:
        self.run_cuts("check", kind, recording.log, "--trials", str(trials))

    def run_cuts(self, *command: str) -> None:
        done = subprocess.run([ARGUMENTS.cuts, *command, "--seed", str(self.SEED)], capture_output=True, text=True,
                              timeout=60 + ARGUMENTS.trials, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        print(done.stdout.strip(), flush=True)

    def record(self, recording: Recording, *command: str) -> str:
        """A program that runs to its end."""
        done = subprocess.run(command, env=os.environ | recording.environment(), capture_output=True, text=True,
                              timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_a_store(self) -> None:
        self.run_cuts("store", "--trials", str(ARGUMENTS.trials))
        self.run_cuts("store", "--trials", str(max(1, ARGUMENTS.trials // 4)), "--links", "0")

    def machine(self, shard: int) -> str:
        """A --data folder of its own for each server."""
        return os.path.join(self.recording.root, f"machine-{shard}", "data")

    def test_servers(self) -> None:
        expected = self.embedded()
        self.recording = Recording(self.folder, "servers")
        self.preload = self.recording
        for shard in range(SERVERS):
            self.recording.make_folder(f"machine-{shard}")
        self.let_them_run()
        self.cut(f"servers={SERVERS}", self.recording, ARGUMENTS.trials)
        self.preload = None
        for number in range(ARGUMENTS.starts):
            with self.subTest(cut=number, seed=self.SEED):
                self.start_on(number, expected)

    def let_them_run(self) -> None:
        """A run with an end of a server, a kill and a rollback, and their starts."""
        servers = [self.serve(shard, SERVERS, state=self.machine(shard)) for shard in range(SERVERS)]
        addresses = [address for _, address in servers]
        watcher = Watcher(self, self.recording)
        watcher.start()
        self.addCleanup(watcher.stop)
        worker = self.train("recorded", addresses)
        for step, shard, number in ((15, 1, signal.SIGKILL), (35, 0, signal.SIGTERM)):
            self.wait_for_steps("recorded", step)
            process = servers[shard][0]
            process.send_signal(number)
            process.wait(DEADLINE)
            servers[shard] = self.serve(shard, SERVERS, addresses[shard], state=self.machine(shard))
        self.finish("recorded", worker)
        watcher.stop()
        self.end_servers(servers)  # they may still merge: nothing is to change beside the cuts

    def end_servers(self, servers: list[tuple[subprocess.Popen, str]]) -> None:
        for process, _ in servers:
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(DEADLINE), 0)

    def start_on(self, number: int, expected: tuple[str, list[str]]) -> None:
        """The number-th cut: servers start on what is left, and the run goes on to its end."""
        left = os.path.join(self.folder, f"left-{number}")
        subprocess.run([ARGUMENTS.cuts, "cut", self.recording.log, "--at", str(number), "--trials",
                        str(ARGUMENTS.starts), "--seed", str(self.SEED), "--to", left], check=True,
                       stdout=subprocess.DEVNULL)
        running = [self.serve(shard, SERVERS, state=os.path.join(left, f"machine-{shard}", "data"))
                   for shard in range(SERVERS)]
        name = f"after-{number}"
        self.finish(name, self.train(name, [address for _, address in running]))
        self.assertEqual(self.result(name), expected)
        self.end_servers(running)

    def tell_files(self, recording: Recording, *patterns: str) -> None:
        """All files that the patterns find below the root may be counted on."""
        for pattern in patterns:
            paths = [path for path in glob.glob(os.path.join(recording.root, pattern), recursive=True)
                     if os.path.isfile(path)]
            self.assertTrue(paths, pattern)
            for path in paths:
                recording.say(f"file {path.removeprefix(recording.root)}\n")

    def test_a_deleted_run(self) -> None:
        """It is there as a whole or not at all."""
        self.finish("short", self.train("short", [], "--shards", "2"))
        recording = Recording(self.folder, "deleted")
        data = os.path.join(recording.make_folder("machine-0"), "data")
        self.record(recording, self.PSERVER, "reshard", "--from", os.path.join(self.folder, "short", "state"),
                    "--to", data, "--shards", str(SERVERS))
        self.record(recording, self.PSERVER, "runs", data, "--delete", os.listdir(data)[0].removeprefix("run-"))
        self.cut(f"servers={SERVERS}", recording, ARGUMENTS.trials)

    def test_files_of_programs(self) -> None:
        """Exports, keys, resharded snapshots, a training without servers: once a program has ended well, what it
        wrote stays."""
        self.finish("short", self.train("short", [], "--shards", "2"))
        state = os.path.join(self.folder, "short", "state")
        recording = Recording(self.folder, "files")
        in_root = lambda name: os.path.join(recording.root, name)
        for place in "abcd":
            recording.make_folder(place)
        for _ in range(2):
            self.record(recording, self.WORKER, "export", "--from", state, "--out", in_root("a/model.safetensors"),
                        "--threads", "1")
            self.tell_files(recording, "a/*")
        self.record(recording, self.PSERVER, "keygen", "--out", in_root("b/keys"))
        self.tell_files(recording, "b/**")
        self.record(recording, self.PSERVER, "keygen", "--out", in_root("b/keys"), "--add-client", "another")
        self.tell_files(recording, "b/**")
        self.record(recording, self.PSERVER, "reshard", "--from", state, "--to", in_root("c/data"), "--shards", "3")
        self.tell_files(recording, "c/**")
        self.record(recording, self.WORKER, "train", "--config", self.config, "--data", self.data, "--steps", "30",
                    "--threads", "1", "--shards", "2", "--out", in_root("d/deep/out"), "--export",
                    in_root("d/models/m.safetensors"))
        self.tell_files(recording, "d/models/*", "d/deep/out/run", "d/deep/out/loss.svg",
                        "d/deep/out/state/run-*/description.json", "d/deep/out/state/run-*/shard-*/step-*/*")
        self.cut("files", recording, ARGUMENTS.trials)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("cuts")
    parser.add_argument("recorder")
    parser.add_argument("--trials", type=int, default=200, help="power cuts of each recording")
    parser.add_argument("--starts", type=int, default=2, help="of them, a cluster is started on so many")
    parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
    parser.parse_args(namespace=ARGUMENTS)
    ClusterCase.WORKER, ClusterCase.PSERVER = ARGUMENTS.worker, ARGUMENTS.pserver
    Power.SEED = ARGUMENTS.seed or int.from_bytes(os.urandom(4), "little")
    print(f"--seed {Power.SEED}", flush=True)
    unittest.main(argv=["power_test.py"])
