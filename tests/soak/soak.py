"""Goal: a cluster that runs for long uses no more of a machine than at first, and whatever happens beside it, its
model is that of an undisturbed run, byte by byte. Two servers and three workers, connected through links that delay
and can be cut; a snapshot a minute. One server and two workers are killed, told to end, held and started again; the
other server and the other worker meet cut links only, so that they live from the beginning to the end: their memory,
descriptors and threads are judged. Evaluations and inspections of the snapshots run beside them.
Usage: soak.py PATH_OF_WORKER PATH_OF_PSERVER [--minutes N] [--seed S] [--out DIR]"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

import samples
from cluster_case import COMPARED, DEADLINE, ClusterCase, Place
from links import Network, State

SERVERS = 2
WORKERS = 3
LEASE = 2.0
DELAY = 0.004  # seconds each way: steps wait for the network, not for this machine's cores
HELD_MAX = 4 * LEASE
SAMPLES = 600  # of every process, about
JUDGED = 3  # minutes: in a shorter run everything still grows to its size
ARGUMENTS = argparse.Namespace(minutes=5.0, seed=0, out="")

# What happens, and how often beside the others.
FAULTS = {"cut": 6, "kill worker": 3, "end worker": 3, "hold worker": 2, "kill server": 1, "end server": 1,
          "hold server": 1, "evaluate": 3, "inspect": 2}


class Seat(Place):
    """A process that may also be told to end, and comes back some time after it has."""

    def __init__(self, start, name: str) -> None:
        super().__init__(start, name)
        self.pause = 0.0
        self.ending = False

    def end(self, pause: float) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.ending, self.pause = True, pause

    def is_idle(self) -> bool:
        """Nothing happens to it now."""
        return self.back == 0 and not self.ending


class Soak(ClusterCase):
    STEPS = 1_000_000  # more than can be done
    CONFIG = ClusterCase.CONFIG.replace("lease_seconds = 2", f"lease_seconds = {LEASE}").replace(
        "eval_every = 20", "eval_every = 100") + "warmup_ratio = 0.0001\n"

    def begin_cluster(self, network: Network) -> None:
        """All processes, each worker with links of its own."""
        self.state = os.path.join(self.folder, "state")
        self.links = {(worker, shard): network.link() for worker in range(WORKERS) for shard in range(SERVERS)}
        self.seats: dict[str, Seat] = {}
        self.logged: dict[str, int] = {}  # letters of a worker's log when it was started
        for shard in range(SERVERS):
            name = f"server {shard}"
            self.seats[name] = Seat(lambda shard=shard: self.start_server(shard), name)
        minutes = max(0.05, min(1.0, ARGUMENTS.minutes / 20))
        for worker in range(WORKERS):
            name = f"worker {worker}"
            addresses = [self.links[worker, shard].address for shard in range(SERVERS)]
            self.seats[name] = Seat(
                lambda name=name, addresses=addresses: self.start_worker(
                    name, addresses, "--set", f"snapshot.every_minutes={minutes}"), name)
        self.steady = [f"server {self.draw.randrange(SERVERS)}", f"worker {self.draw.randrange(WORKERS)}"]
        self.seen = {name: 0 for name in self.seats}  # bytes of a worker's report that were read
        self.newest = 0
        self.beside: list[tuple[str, subprocess.Popen]] = []
        self.cuts: dict[tuple[int, int], float] = {}  # when a link is whole again
        self.counts: collections.Counter[str] = collections.Counter()

    def start_server(self, shard: int) -> subprocess.Popen:
        process, address = self.serve(shard, SERVERS, state="state")
        for worker in range(WORKERS):
            self.links[worker, shard].target = int(address.rpartition(":")[2])
        return process

    def start_worker(self, name: str, addresses: list[str], *more: str) -> subprocess.Popen:
        self.logged[name] = len(self.log(name)) if name in self.logged else 0
        return self.train(name, addresses, *more)

    def heeds_signals(self, name: str) -> bool:
        return name not in self.logged or self.has_begun(name, self.logged[name])

    def step(self) -> int:
        """The newest step that a worker has reported."""
        for name in self.seats:
            path = os.path.join(self.folder, name, "metrics.jsonl")
            if not os.path.exists(path):
                continue
            with open(path, "rb") as file:
                file.seek(self.seen[name])
                text = file.read()
            whole = text.rpartition(b"\n")[0]
            if whole:
                self.seen[name] += len(whole) + 1
                self.newest = max(self.newest, json.loads(whole.rpartition(b"\n")[2])["step"])
        return self.newest

    def victims(self, kind: str) -> list[Seat]:
        return [seat for name, seat in self.seats.items()
                if name.startswith(kind) and name not in self.steady and seat.is_idle()]

    def happen(self) -> str:
        """One thing; in words, empty if it cannot happen now."""
        now = time.monotonic()
        kind = self.draw.choices(list(FAULTS), list(FAULTS.values()))[0]
        if kind == "cut":
            return self.cut(now)
        if kind in ("evaluate", "inspect"):
            return self.look(kind)
        what, _, whom = kind.partition(" ")
        seats = [seat for seat in self.victims(whom) if what != "end" or self.heeds_signals(seat.name)]
        if not seats:
            return ""
        seat = self.draw.choice(seats)
        if what == "kill":
            seat.kill(now + self.draw.uniform(0, HELD_MAX))
        elif what == "hold":
            seat.hold(now + self.draw.uniform(0.1, HELD_MAX))
        else:
            seat.end(self.draw.uniform(0, HELD_MAX))
        return kind

    def cut(self, now: float) -> str:
        """Between one worker and one server, around one of them, or everywhere."""
        worker, shard = self.draw.randrange(WORKERS), self.draw.randrange(SERVERS)
        extents = {"one link": lambda key: key == (worker, shard), "all of a worker": lambda key: key[0] == worker,
                   "all of a server": lambda key: key[1] == shard, "all": lambda key: True}
        extent = self.draw.choice(list(extents))
        state = self.draw.choice([State.SILENT, State.REFUSED])
        back = now + self.draw.uniform(0.1, HELD_MAX)
        for key, link in self.links.items():
            if extents[extent](key):
                link.set_state(state)
                self.cuts[key] = back
        return f"cut: {extent} {state.value}"

    def look(self, kind: str) -> str:
        """A program that reads the snapshots of the running servers."""
        if len(self.beside) > 1 or not all(list(pathlib.Path(self.state).glob(f"run-*/shard-{shard}-of-*/step-*"))
                                           for shard in range(SERVERS)):
            return ""
        command = ([self.WORKER, "eval", "--model", self.state, "--data", self.data, "--windows", "2", "--threads", "1"]
                   if kind == "evaluate" else [self.PSERVER, "inspect", "--verify", self.state])
        self.beside.append((kind, self.start(command, f"{kind}.log")))
        return kind

    def mend(self, now: float, everything: bool = False) -> None:
        """Brings back whose time has come, and notices who has ended unasked."""
        for key, back in list(self.cuts.items()):
            if everything or back <= now:
                self.links[key].set_state(State.OPEN)
                del self.cuts[key]
        for name, seat in self.seats.items():
            code = seat.process.poll() if not seat.dead else None
            if seat.ending and code is not None:
                if not (code == 1 and "error: no answer to " in self.tail(name)):  # it was cut off meanwhile
                    self.assertEqual(code, 0 if name.startswith("server") else 128 + signal.SIGTERM, self.tail(name))
                seat.process.stdout.close()
                seat.ending, seat.dead, seat.back = False, True, now + seat.pause
            elif code is not None:
                self.fail(f"{name} ended by itself with {code}: {self.tail(name)}")
            if seat.back > 0 and (everything or seat.back <= now):
                seat.come_back()
        for kind, process in list(self.beside):
            if process.poll() is None:
                continue
            self.assertEqual(process.returncode, 0, f"{kind}: {self.tail(kind)}")
            self.beside.remove((kind, process))

    def tail(self, name: str) -> str:
        log = {"server": "pserver-"}.get(name.split()[0], name)
        return self.log(log + name.split()[1] if log == "pserver-" else name)[-2000:]

    def soak(self) -> list[samples.Sample]:
        """Until the time is over."""
        taken: list[samples.Sample] = []
        begin = time.monotonic()
        seconds = 60 * ARGUMENTS.minutes
        pause = min(6.0, max(1.5, seconds / 100))  # between events, about
        next_sample = next_event = begin
        said = begin
        while (now := time.monotonic()) < begin + seconds:
            self.mend(now)
            if now >= next_event:
                if what := self.happen():
                    self.counts[what] += 1
                next_event = now + self.draw.expovariate(1 / pause)
            if now >= next_sample:
                for name, seat in self.seats.items():
                    one = samples.sample(seat.process.pid, now - begin, self.step(), name) if not seat.dead else None
                    if one is not None:
                        taken.append(one)
                next_sample = now + seconds / SAMPLES
            if now >= said + 60:
                said = now
                print(f"{(now - begin) / 60:.0f} min: step {self.step()}, {self.counts.total()} events", flush=True)
            time.sleep(0.02)
        return taken

    def stop(self) -> int:
        """All in peace again; the run ends at the step that is returned, which all servers have saved."""
        end = time.monotonic() + DEADLINE
        while self.cuts or self.beside or not all(seat.is_idle() for seat in self.seats.values()):
            self.assertLess(time.monotonic(), end, "what ends at last")
            self.mend(time.monotonic(), everything=True)
            time.sleep(0.05)
        addresses = ",".join(self.links[0, shard].address for shard in range(SERVERS))
        done = subprocess.run([self.WORKER, "stop", "--pservers", addresses], capture_output=True, text=True,
                              timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        words = done.stdout.split()
        self.assertEqual((words[:6], words[6]), ("no worker is left; step".split() + words[5:6], "of"), done.stdout)
        for name, seat in self.seats.items():
            if name.startswith("server"):
                seat.process.send_signal(signal.SIGTERM)
        for name, seat in self.seats.items():
            self.assertEqual(seat.process.wait(DEADLINE), 0, self.tail(name))
        return int(words[5])

    def lines(self, name: str, last: int) -> list[str]:
        """What a worker reported of each step up to `last`; of a step that was done again, the last time."""
        found = {}
        with open(os.path.join(self.folder, name, "metrics.jsonl"), encoding="ascii") as file:
            for line in file:
                found[json.loads(line)["step"]] = " ".join(COMPARED.findall(line))
        self.assertEqual(sorted(found)[:last], list(range(1, last + 1)), name)
        return [found[step] for step in range(1, last + 1)]

    def exported(self, state: str) -> str:
        """SHA-256 of the newest model in a folder of snapshots."""
        model = self.model(os.path.basename(os.path.dirname(state)) + "-exported")
        subprocess.run([self.WORKER, "export", "--from", state, "--out", model, "--threads", "1"], check=True,
                       stdout=subprocess.DEVNULL, timeout=DEADLINE)
        with open(model, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def undisturbed(self, last: int) -> tuple[str, list[str]]:
        """The same steps in one process that nobody disturbs: it saves the last one of them."""
        process = self.train("undisturbed", [], "--set", f"snapshot.every_steps={last}", "--set",
                             "snapshot.every_minutes=0")
        state = pathlib.Path(self.folder, "undisturbed", "state")
        end = time.monotonic() + 60 + 60 * ARGUMENTS.minutes
        while not list(state.glob(f"run-*/shard-0-of-1/step-{last}")):
            self.assertIsNone(process.poll(), self.log("undisturbed"))
            self.assertLess(time.monotonic(), end, "the undisturbed run takes longer than the disturbed one")
            time.sleep(0.02)
        process.kill()
        process.wait()
        return self.exported(str(state)), self.lines("undisturbed", last)

    def test_soak(self) -> None:
        seed = ARGUMENTS.seed or int.from_bytes(os.urandom(4), "little")
        print(f"--minutes {ARGUMENTS.minutes:g} --seed {seed}", flush=True)
        self.draw = random.Random(seed)
        with Network(DELAY) as network:
            self.begin_cluster(network)
            taken = self.soak()
            last = self.stop()
        forwarded = sum(link.forwarded for link in self.links.values())
        found = samples.slopes(taken, self.steady)
        text = "\n".join([f"{ARGUMENTS.minutes:g} minutes, seed {seed}: {last} steps, {forwarded / 1e6:.0f} MB over links;"
                          f" " + ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items())), "",
                          samples.table(found)])
        print(text, flush=True)
        if ARGUMENTS.out:
            os.makedirs(ARGUMENTS.out, exist_ok=True)
            samples.write(taken, os.path.join(ARGUMENTS.out, "samples.csv"))
            pathlib.Path(ARGUMENTS.out, "soak.svg").write_text(samples.plot(taken, list(self.seats)), "utf-8")
            pathlib.Path(ARGUMENTS.out, "soak.md").write_text(text + "\n", "utf-8")
        model = self.exported(self.state)
        expected, lines = self.undisturbed(last)
        # Of the last step it was not told if it was stopped first, while another one ended the step.
        told = self.lines(self.steady[1], last - 1)
        self.assertEqual(told, lines[:last - 1], "what the steady worker reported")
        self.assertEqual(model, expected, "the model")
        print(f"model of step {last}: sha256 {model}, as of an undisturbed run", flush=True)
        for slope in found if ARGUMENTS.minutes >= JUDGED else []:
            self.assertTrue(slope.flat, f"{slope.role}: {slope.quantity.name} grows by {slope.per_hour:.1f} an hour")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
    parser.add_argument("--out", default="", help="folder for samples.csv, soak.svg and soak.md")
    parser.parse_args(namespace=ARGUMENTS)
    ClusterCase.WORKER, ClusterCase.PSERVER = ARGUMENTS.worker, ARGUMENTS.pserver
    unittest.main(argv=["soak.py"])
