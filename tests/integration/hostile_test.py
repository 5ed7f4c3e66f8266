"""Goal: peers that send garbage, have not joined, or have joined and send requests with something wrong do
not hurt a training in progress: the servers refuse or drop what they send, and the model is that of an
undisturbed run. Usage: hostile_test.py PATH_OF_WORKER PATH_OF_PSERVER PATH_OF_HOSTILE_PEER"""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
import urllib.request

from cluster_case import DEADLINE, ClusterCase

PEER = sys.argv.pop(3)
ClusterCase.PSERVER = sys.argv.pop(2)
ClusterCase.WORKER = sys.argv.pop(1)
MESSAGES = 10_000  # at least, while the training goes on
PEERS = 2
# What a ZeroMQ peer says first: version 3.1, no security.
GREETING = b"\xff" + b"\0" * 7 + b"\1\x7f" + b"\3\1" + b"NULL".ljust(20, b"\0") + b"\0" * 32
READY = b"\4\x19\5READY\x0bSocket-Type\0\0\0\6DEALER"


class RawPeer(threading.Thread):
    """Connections that do not speak the transport's language, or stop in the middle of a sentence."""

    def __init__(self, addresses: list[str], seed: int) -> None:
        super().__init__()
        self.places = [(host, int(port)) for host, port in
                       (address.removeprefix("tcp://").split(":") for address in addresses)]
        self.draw = random.Random(seed)
        self.ending = threading.Event()
        self.connections = 0

    def garbage(self) -> bytes:
        draw = self.draw
        kind = draw.randrange(6)
        if kind == 0:
            return draw.randbytes(draw.randrange(1, 2000))
        if kind == 1:
            return b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        if kind == 2:
            return GREETING[:draw.randrange(1, len(GREETING))]
        if kind == 3:
            return GREETING + draw.randbytes(draw.randrange(1, 500))
        if kind == 4:  # a frame of 2^62 bytes is announced
            return GREETING + READY + b"\2" + (1 << 62).to_bytes(8, "big") + draw.randbytes(100)
        return GREETING + READY + b"\0\x20" + draw.randbytes(16)  # half a frame

    def run(self) -> None:
        open_ends: list[socket.socket] = []
        while not self.ending.wait(0.01):
            try:
                end = socket.create_connection(self.draw.choice(self.places), timeout=10)
                end.sendall(self.garbage())
                open_ends.append(end)
            except OSError:
                continue
            self.connections += 1
            if len(open_ends) > 40:
                open_ends.pop(self.draw.randrange(len(open_ends))).close()
        for end in open_ends:
            end.close()


class Hostile(ClusterCase):
    STEPS = 200
    CONFIG = ClusterCase.CONFIG.replace("[train]", f"[train]\nsteps = {STEPS}")

    def test_a_training_goes_on(self) -> None:
        expected = self.embedded()
        servers = [self.serve(shard, 2) for shard in range(2)]
        addresses = [address for _, address in servers]
        workers = {name: self.train(name, addresses) for name in ("one", "two")}
        self.wait_for_steps("one", 5)
        raw = RawPeer(addresses, 1)
        raw.start()
        self.addCleanup(raw.ending.set)
        peers = []
        for seed in range(PEERS):
            with open(os.path.join(self.folder, f"peer-{seed}.log"), "w", encoding="utf-8") as errors:
                peer = subprocess.Popen([PEER, self.config, self.data, str(seed), *addresses], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            self.addCleanup(peer.wait)
            self.addCleanup(peer.kill)
            peers.append(peer)
        for name, worker in workers.items():
            self.finish(name, worker)
        raw.ending.set()
        raw.join(DEADLINE)
        sent = 0
        refused: dict[str, int] = {}
        for seed, peer in enumerate(peers):
            output, _ = peer.communicate(timeout=DEADLINE)  # closes its input, which ends it
            self.assertEqual(peer.returncode, 0, self.log(f"peer-{seed}"))
            sent += int(re.search(r"^sent (\d+)$", output, re.MULTILINE)[1])
            for code, count in re.findall(r"^code (\d+): (\d+)$", output, re.MULTILINE):
                refused[code] = refused.get(code, 0) + int(count)
        for name in workers:
            self.assertEqual(self.result(name), expected)
        self.assertGreaterEqual(sent, MESSAGES)
        self.assertGreaterEqual(sum(refused.values()), MESSAGES / 2)
        self.assertGreaterEqual(len(refused), 4, refused)  # by what is wrong with them
        self.assertGreater(raw.connections, 50)
        dropped = 0
        for shard, (process, _) in enumerate(servers):
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(DEADLINE), 0)
            dropped += int(re.search(r"(\d+) messages did not parse", self.log(f"pserver-{shard}"))[1])
        self.assertGreater(dropped, MESSAGES / 20)
        print(f"{sent} messages, {dropped} did not parse, refused by code {refused}, "
              f"{raw.connections} raw connections", flush=True)

    def test_who_says_nothing_keeps_no_scraper_out(self) -> None:
        self.serve(0, 1)
        host, port = self.metrics[0].split(":")
        for count in (16, 48):
            idle = [socket.create_connection((host, int(port))) for _ in range(count)]
            for one in idle[::2]:
                one.sendall(b"GET /met")
            begin = time.monotonic()
            self.assertIn("mf_replies_unsent_total", self.scrape(self.metrics[0]))
            with urllib.request.urlopen(f"http://{self.metrics[0]}/health", timeout=DEADLINE) as answer:
                self.assertEqual(answer.status, 200)
            taken = time.monotonic() - begin
            print(f"metrics and health beside {count} silent connections: {taken:.2f} s", flush=True)
            self.assertLess(taken, 10 if count == 16 else 20)  # it was 20 s beside 16, and a minute beside 48
            for one in idle:
                one.close()


if __name__ == "__main__":
    unittest.main()
