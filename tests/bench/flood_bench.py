"""What floods cost the others: a training on one server, in turns alone and beside a peer that sends as much as it
can. The kinds: garbage in raw connections, requests without a session, valid requests of a joined worker at full rate,
valid requests whose answers are never read, 10,000 connections that say nothing, handshakes of a byte a second.

    flood_bench.py WORKER PSERVER FLOOD_PEER [--json FILE] [--seconds N] [--turns N] [--kinds KIND,...] [--pin]

--pin: the worker has a core of its own, the server and the flood another, so that a flood costs the training what the
server does about it, and not its worker's core.
Kept: steps/s beside the flood over those alone, of the turns before and after, the median of the turns. Floods run
with the lowest priority, so that the processor that they take themselves does not count as the server's. Memory: the
most that the server had resident, over what it had before.
"""

import argparse
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time

from cluster import Cluster, end_cleanly, text
from report import Report

CONFIG = b"""[model]
d = 256
layers = 2
heads = 4
K = 32
tau = 8
sequence = 256
[train]
micro_batches = 4
batch = 1
steps = 1000000
eval_every = 0
[snapshot]
every_minutes = 0
"""
KINDS = ("garbage", "unjoined", "joined", "unread", "connections", "slow handshakes")
GREETING = b"\xff" + b"\0" * 7 + b"\1\x7f" + b"\3\1" + b"NULL".ljust(20, b"\0") + b"\0" * 32


class Sockets(threading.Thread):
    """Floods of raw connections."""

    def __init__(self, kind: str, address: str) -> None:
        super().__init__(daemon=True)
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self.kind, self.place = kind, (host, int(port))
        self.ending = threading.Event()
        self.count = 0

    def run(self) -> None:
        draw = random.Random(1)
        held: list[tuple[socket.socket, int]] = []
        noise = draw.randbytes(1 << 16)
        most = {"garbage": 1, "connections": 10_000, "slow handshakes": 1000}[self.kind]
        while not self.ending.wait(0.001):
            try:
                while len(held) < most and not self.ending.is_set():
                    end = socket.create_connection(self.place, timeout=5)
                    end.settimeout(5)
                    held.append((end, 0))
                    self.count += 1
                if self.kind == "garbage":
                    held.pop()[0].sendall(GREETING + noise)
                elif self.kind == "slow handshakes":
                    self.ending.wait(1)
                    held = [(end, at + 1) for end, at in held if end.send(GREETING[at:at + 1] or b"\0")]
            except OSError:
                held = [(end, at) for end, at in held if end.fileno() >= 0 and not self.gone(end)]
        for end, _ in held:
            end.close()

    @staticmethod
    def gone(end: socket.socket) -> bool:
        try:
            end.setblocking(False)
            return end.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            end.settimeout(5)


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Bench:
    def __init__(self, flags: argparse.Namespace, cluster: Cluster) -> None:
        self.flags, self.cluster = flags, cluster
        self.config, self.data = cluster.write("run.toml", CONFIG), cluster.write("data.txt", text(1_000_000))
        one, other = [["taskset", "-c", core] if flags.pin else [] for core in ("0", "1")]
        self.beside = [*one, "nice", "-n", "19"]
        self.server = cluster.serve(0, 1, prefix=one)
        self.worker = cluster.train("worker", self.config, self.data, [], prefix=other)
        while cluster.steps("worker") < 20:
            time.sleep(0.05)

    def rate(self, seconds: float) -> tuple[float, int]:
        """Steps a second, and the most that the server had resident."""
        begin, steps, most = time.monotonic(), self.cluster.steps("worker"), 0
        while time.monotonic() - begin < seconds:
            most = max(most, resident(self.server.pid))
            time.sleep(0.02)
        if self.server.poll() is not None or self.worker.poll() is not None:
            raise RuntimeError("the training ended: " + self.cluster.log("worker") + self.cluster.log("pserver-0"))
        return (self.cluster.steps("worker") - steps) / (time.monotonic() - begin), most

    def flooded(self, kind: str) -> tuple[float, int, str]:
        address = self.cluster.addresses[0]
        if kind in ("unjoined", "joined", "unread"):
            peer = subprocess.Popen([*self.beside, self.flags.peer, kind, self.config, self.data, address],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            time.sleep(0.5)
            rate, most = self.rate(self.flags.seconds)
            output, _ = peer.communicate(timeout=60)
            return rate, most, " ".join(output.split())
        flood = subprocess.Popen([*self.beside, sys.executable, "-B", __file__, "--sockets", kind, address],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if kind == "connections":
            time.sleep(3)
        time.sleep(0.5)
        rate, most = self.rate(self.flags.seconds)
        output, _ = flood.communicate(timeout=60)
        return rate, most, output.strip()

    def measure(self, kind: str, report: Report) -> None:
        kept, grown, said = [], [], ""
        before, _ = self.rate(self.flags.seconds)
        for _ in range(self.flags.turns):
            idle = resident(self.server.pid)
            rate, most, said = self.flooded(kind)
            time.sleep(0.5)
            after, _ = self.rate(self.flags.seconds)
            kept.append(rate / ((before + after) / 2))
            grown.append(most - idle)
            before = after
        report.line(f"flood: {kind}", statistics.median(kept) * 100, "%", [],
                    f"of the speed kept, {min(kept) * 100:.0f} to {max(kept) * 100:.0f}%; at most "
                    f"{max(grown) / 1e6:.0f} MB more in the server; {said}")


def sockets(kind: str, address: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flood = Sockets(kind, address)
    flood.start()
    sys.stdin.read()
    flood.ending.set()
    flood.join(30)
    print(f"{flood.count} connections")


def main() -> None:
    if sys.argv[1:2] == ["--sockets"]:
        sockets(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("peer")
    parser.add_argument("--json", default="")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--pin", action="store_true")
    flags = parser.parse_args()
    end_cleanly()
    report = Report(flags.json)
    for kind in flags.kinds.split(","):
        if kind not in KINDS:
            parser.error(f"{kind}: not one of {', '.join(KINDS)}")
        with Cluster(flags.worker, flags.pserver) as cluster:
            Bench(flags, cluster).measure(kind, report)


if __name__ == "__main__":
    main()
