"""Goal: what the soak measures with is right: a line through samples and its error, who is said to grow, a process
that does; and a network that delays, holds back, refuses and delivers all that was sent before an end."""

import dataclasses
import os
import random
import socket
import subprocess
import sys
import time
import unittest
from xml.etree import ElementTree

import samples
from links import Network, State
from samples import Sample

HOUR = 3600.0


def taken(seconds: float, grow: float, noise: float, seed: int) -> list[Sample]:
    """600 samples of a process whose memory has doubled in the warm-up and then grows by `grow` MB an hour, with noise
    of which a part lasts for a minute."""
    draw = random.Random(seed)
    found, slow = [], 0.0
    for i in range(600):
        at = seconds * i / 600
        if i % 10 == 0:
            slow = draw.gauss(0, noise)
        size = 50 + 50 * min(1, at / (0.2 * seconds)) + grow * at / HOUR + slow + draw.gauss(0, noise)
        found.append(Sample(at, i, "server 0", 1, size, size, 20 + i % 3, 12))
    return found


class Slopes(unittest.TestCase):
    def test_a_line_is_found(self) -> None:
        times = [i / 7 for i in range(205)]
        slope, error = samples.fit(times, [3 * x - 5 for x in times])
        self.assertAlmostEqual(slope, 3)
        self.assertAlmostEqual(error, 0)

    def test_errors_are_as_large_as_they_are_said_to_be(self) -> None:
        """Of 200 lines without growth about 5% are further from it than T_95 errors, whatever the noise lasts."""
        beyond = 0
        for seed in range(200):
            slope = samples.slopes(taken(HOUR, 0, 0.5, seed), ["server 0"])[0]
            beyond += abs(slope.per_hour) > samples.T_95 * slope.error
        self.assertLess(beyond, 25)

    def test_growth_is_noticed_and_noise_is_not(self) -> None:
        for seed in range(20):
            verdicts = {grow: samples.slopes(taken(HOUR, grow, 0.5, seed), ["server 0"])[0].flat
                        for grow in (-2, 0, 1, 5, 30)}
            self.assertEqual(verdicts, {-2: True, 0: True, 1: True, 5: False, 30: False}, seed)

    def test_what_is_kept_of_each_step_is_allowed_and_more_is_not(self) -> None:
        def fast(steps: int, grow: float) -> list[Sample]:
            return [dataclasses.replace(one, step=one.step * steps // 600) for one in taken(HOUR, grow, 0.5, 1)]

        steps = 100_000
        kept = samples.kept("server 0") * steps / 1e6
        self.assertTrue(samples.slopes(fast(steps, kept), ["server 0"])[0].flat)
        self.assertFalse(samples.slopes(fast(0, kept), ["server 0"])[0].flat)
        self.assertFalse(samples.slopes(fast(steps, kept + 4), ["server 0"])[0].flat)
        self.assertLess(samples.kept("server 1"), samples.kept("server 0"))

    def test_a_descriptor_lost_every_minute_is_noticed(self) -> None:
        leaky = [dataclasses.replace(one, descriptors=one.descriptors + int(one.seconds / 60))
                 for one in taken(600, 0, 0.5, 1)]
        flat = {slope.quantity.name: slope.flat for slope in samples.slopes(leaky, ["server 0"])}
        self.assertEqual(flat, {"pss": True, "anonymous": True, "descriptors": False, "threads": True})

    def test_a_process_that_was_replaced_is_none(self) -> None:
        found = taken(600, 0, 0.5, 1)
        found[300] = dataclasses.replace(found[300], process=2)
        with self.assertRaises(ValueError):
            samples.slopes(found, ["server 0"])

    def test_a_process_is_measured(self) -> None:
        program = ("import sys,threading,time; kept=b'x'*30_000_000; files=[open('/dev/null') for _ in range(40)];"
                   "threading.Thread(target=time.sleep,args=(60,),daemon=True).start(); print(1,flush=True); time.sleep(60)")
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            one = samples.sample(process.pid, 1.0, 2, "python")
            process.kill()
        self.assertTrue(30 < one.anonymous <= one.pss < 60, one)
        self.assertGreaterEqual(one.descriptors, 43)
        self.assertEqual(one.threads, 2)
        self.assertIsNone(samples.sample(process.pid, 1.0, 2, "python"))

    def test_the_plot_is_one(self) -> None:
        root = ElementTree.fromstring(samples.plot(taken(600, 5, 0.5, 1), ["server 0"]))
        lines = [element for element in root.iter() if element.tag.endswith("polyline")]
        self.assertEqual(len(lines), len(samples.QUANTITIES))


class Links(unittest.TestCase):
    def setUp(self) -> None:
        network = Network(0.05)
        network.__enter__()
        self.addCleanup(network.__exit__, None, None, None)
        self.link = network.link()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.server.close)
        self.link.target = self.server.getsockname()[1]

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.link.address.rpartition(":")[2])), timeout=5)

    def connect(self) -> tuple[socket.socket, socket.socket]:
        near = self.dial()
        self.server.settimeout(5)
        far = self.server.accept()[0]
        far.settimeout(5)
        for end in (near, far):
            self.addCleanup(end.close)
        return near, far

    def test_everything_arrives_late_and_before_the_end(self) -> None:
        near, far = self.connect()
        sent = os.urandom(3_000_000)
        begin = time.monotonic()
        near.sendall(sent)
        near.close()
        got = bytearray()
        first = 0.0
        while piece := far.recv(1 << 20):
            first = first or time.monotonic() - begin
            got += piece
        self.assertEqual(bytes(got), sent)
        self.assertGreaterEqual(first, 0.05)

    def test_a_silent_link_goes_on_where_it_was(self) -> None:
        near, far = self.connect()
        self.link.set_state(State.SILENT)
        near.sendall(b"one")
        far.settimeout(0.3)
        self.assertRaises(TimeoutError, far.recv, 3)
        far.settimeout(5)
        self.link.set_state(State.OPEN)
        self.assertEqual(far.recv(3), b"one")

    def test_a_refused_link_resets_what_is_there_and_what_comes(self) -> None:
        near, far = self.connect()
        self.link.set_state(State.REFUSED)
        self.assertRaises(ConnectionResetError, near.recv, 1)
        with self.assertRaises(ConnectionResetError):  # which may come before dialling has returned
            with self.dial() as again:
                again.recv(1)
        self.link.set_state(State.OPEN)
        near, far = self.connect()
        near.sendall(b"two")
        self.assertEqual(far.recv(3), b"two")


if __name__ == "__main__":
    unittest.main()
