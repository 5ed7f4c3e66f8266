"""Goal: who is told to end loses nothing. SIGTERM, SIGINT and SIGHUP, to any processes of a run at any moment: a worker gives
back what it holds, servers publish the last finished step, every end takes less than 10 s and says what is saved, and
the run goes on exactly there: the model is that of an undisturbed run, byte by byte. Snapshots are taken by nothing
else here. Usage: ending_test.py PATH_OF_WORKER PATH_OF_PSERVER [--trials N] [--seed S] [--only TEST]"""

import argparse
import glob
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import unittest

from cluster_case import DEADLINE, ClusterCase

ARGUMENTS = argparse.Namespace(trials=8, seed=0, only="")
END = 10  # seconds, for whoever is told to end


class Ending(ClusterCase):
    # None is due before the last step.
    CONFIG = ClusterCase.CONFIG + "[snapshot]\nevery_steps = 1000000\nevery_minutes = 0\n"
    STEPS = 320

    def end(self, processes: list[subprocess.Popen], number: int, codes: list[int], unsure: bool = False) -> None:
        """`unsure`: servers end, too."""
        begin = time.monotonic()
        for process in processes:
            process.send_signal(number)
        for process, code in zip(processes, codes):
            left = END - (time.monotonic() - begin)
            ended = process.wait(max(left, 0.01))
            taken = f"{process.args[1]} after {time.monotonic() - begin:.1f} s"
            if ended == 0 and self.finished("one", "two") == self.STEPS:
                continue  # the run was over before the signal came
            if ended == 128 + number and code == -number:
                continue  # it has begun just now
            if ended == 1 and code > 128 and unsure:
                continue  # servers were gone before it could hear what they saved: it says so
            self.assertEqual(ended, code, taken)

    def finished(self, *names: str) -> int:
        """The newest step that a worker was told of."""
        newest = 0
        for name in names:
            try:
                with open(os.path.join(self.folder, name, "metrics.jsonl"), encoding="ascii") as file:
                    newest = max([newest] + [json.loads(line)["step"] for line in file if line.endswith("\n")])
            except FileNotFoundError:
                pass
        return newest

    def went_to(self, name: str, since: int) -> list[int]:
        """Where a worker said that the run goes on, after so many letters of its log."""
        return [int(step) for step in re.findall(r"the run goes (?:on after|back to) step (\d+)",
                                                 self.log(name)[since:])]

    def test_embedded(self) -> None:
        expected = self.embedded()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            worker = self.train("again", [])
            self.wait_for_steps("again", self.steps("again") + 30)
            self.end([worker], number, [128 + number])
            saved = re.findall(r"stopped after step (\d+), which all servers have saved", self.log("again"))
            self.assertGreaterEqual(int(saved[-1]), self.finished("again"))
        self.finish("again", self.train("again", []))
        self.assertEqual(self.went_to("again", 0), [int(step) for step in saved])
        self.assertEqual(self.result("again"), expected)

    def test_a_second_signal_ends_at_once(self) -> None:
        process, address = self.serve(0, 1)
        worker = self.train("twice", [address])
        self.wait_for_steps("twice", 5)
        process.send_signal(signal.SIGSTOP)  # so that the worker waits
        worker.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        self.assertIsNone(worker.poll())
        begin = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        self.assertEqual(worker.wait(END), 128 + signal.SIGTERM)
        self.assertLess(time.monotonic() - begin, 2)
        process.send_signal(signal.SIGCONT)

    def test_an_export_does_not_wait_for_a_server(self) -> None:
        """Once the run is over its model may be large, and the server that it is read from gone."""
        config = self.write("large.toml", self.CONFIG.replace("K = 8\ntau = 8", "K = 4\ntau = 16\nexpand_bits = 0"))
        process, address = self.serve(0, 1)
        model = self.model("large")
        worker = self.start([self.WORKER, "train", "--config", config, "--data", self.data, "--out",
                             os.path.join(self.folder, "large"), "--steps", "2", "--pservers", address, "--export", model],
                            "large.log")
        begin = time.monotonic()
        while not any(os.path.getsize(path) > 1000 for path in glob.glob(model + ".partial-*")):
            self.assertIsNone(worker.poll(), self.log("large"))
            self.assertLess(time.monotonic(), begin + DEADLINE)
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)  # what is on its way comes
        self.end([worker], signal.SIGTERM, [1])
        self.assertIn("the run itself is finished", self.log("large"))
        self.assertEqual(glob.glob(model + "*"), [])
        process.send_signal(signal.SIGCONT)

    def test_stop(self) -> None:
        expected = self.embedded()
        servers = [self.serve(shard, 2) for shard in range(2)]
        addresses = [address for _, address in servers]
        workers = [self.train(name, addresses) for name in ("one", "two")]
        self.wait_for_steps("one", 30)
        known = self.finished("one", "two")
        done = subprocess.run([self.WORKER, "stop", "--pservers", ",".join(addresses)], capture_output=True, text=True,
                              timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        saved = re.fullmatch(rf"no worker is left; step (\d+) of {self.STEPS} is saved by all servers\n", done.stdout)
        self.assertGreaterEqual(int(saved[1]), known)
        for worker in workers:
            self.assertEqual(worker.wait(END), 0)
        # Once more: there is nobody to end, and nothing to do.
        again = subprocess.run([self.WORKER, "stop", "--pservers", ",".join(addresses)], capture_output=True, text=True,
                               timeout=DEADLINE, check=False)
        self.assertEqual((again.returncode, again.stdout), (0, done.stdout))
        # The servers end, too, and others take their places.
        self.end([process for process, _ in servers], signal.SIGTERM, [0, 0])
        addresses = [self.serve(shard, 2, state="state-1")[1] for shard in range(2)]
        since = len(self.log("one"))
        self.finish("one", self.train("one", addresses))
        self.assertEqual(self.went_to("one", since), [int(saved[1])])
        self.assertEqual(self.result("one"), expected)

    def test_stop_after_a_server_was_started_again(self) -> None:
        """It knows neither the run nor its workers, which come back one after the other."""
        draw = random.Random(ARGUMENTS.seed)
        for shard in range(2):
            with self.subTest(shard=shard):
                servers, addresses = map(list, zip(*(self.serve(i, 2, state=f"again-{shard}") for i in range(2))))
                names = [f"one-{shard}", f"two-{shard}"]
                workers = [self.train(name, addresses) for name in names]
                self.wait_for_steps(names[0], 10)
                servers[shard].kill()
                servers[shard].wait()
                servers[shard].stdout.close()
                # A worker that notices late is ended by the stop that came before it, too.
                workers[1].send_signal(signal.SIGSTOP)
                servers[shard] = self.serve(shard, 2, listen=addresses[shard], state=f"again-{shard}")[0]
                time.sleep(draw.uniform(0, 0.3))  # before, while and after the other worker brings it back
                done = subprocess.run([self.WORKER, "stop", "--pservers", ",".join(addresses)], capture_output=True,
                                      text=True, timeout=DEADLINE, check=False)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertRegex(done.stdout, r"^no worker is left; (step \d+ of|there was nothing)")
                workers[1].send_signal(signal.SIGCONT)
                for name, worker in zip(names, workers):
                    self.assertEqual(worker.wait(END), 0, self.log(name))
                    self.assertFalse(os.path.exists(self.model(name)), self.log(name))  # it did not go on to the end
                self.end(servers, signal.SIGTERM, [0, 0])

    def test_lanes_do_not_wait_for_a_server_one_after_the_other(self) -> None:
        """Each of them waits to join a server that was started again, and hangs now."""
        draw = random.Random(ARGUMENTS.seed)
        for name in ("lanes-1", "lanes-2"):
            servers, addresses = map(list, zip(*(self.serve(i, 2, state=name) for i in range(2))))
            worker = self.train(name, addresses, "--set", "exchange.in_flight=4")
            self.wait_for_steps(name, 5)
            servers[1].kill()
            servers[1].wait()
            servers[1].stdout.close()
            time.sleep(0.3)
            servers[1] = self.serve(1, 2, listen=addresses[1], state=name)[0]
            time.sleep(draw.uniform(0, 0.25))
            servers[1].send_signal(signal.SIGSTOP)
            begin = time.monotonic()
            worker.send_signal(signal.SIGTERM)
            worker.wait(DEADLINE)  # whatever it says of the step that could not be saved there
            self.assertLess(time.monotonic() - begin, 1.5 * END, self.log(name))  # two of its deadlines
            for server in servers:
                server.kill()

    def test_stop_without_a_worker_that_recovers(self) -> None:
        process, address = self.serve(0, 1)
        worker = self.train("gone", [address])
        self.wait_for_steps("gone", 10)
        worker.kill()
        process.kill()
        process.wait()
        process.stdout.close()
        self.serve(0, 1, listen=address)
        done = subprocess.run([self.WORKER, "stop", "--pservers", address], capture_output=True, text=True,
                              timeout=DEADLINE, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("no training has begun on this server", done.stderr)

    def test_a_run_that_is_over_has_nobody_to_stop(self) -> None:
        address = self.serve(0, 1)[1]
        self.finish("over", self.train("over", [address], "--steps", "2", "--set", "train.lease_seconds=60"))
        begin = time.monotonic()
        done = subprocess.run([self.WORKER, "stop", "--pservers", address], capture_output=True, text=True,
                              timeout=DEADLINE, check=False)
        self.assertEqual((done.returncode, done.stdout),
                         (0, "no worker is left; step 2 of 2 is saved by all servers\n"), done.stderr)
        self.assertLess(time.monotonic() - begin, END)

    def test_at_any_moment(self) -> None:
        expected = self.embedded()
        draw = random.Random(ARGUMENTS.seed)
        addresses: list[str] = []
        servers: list[subprocess.Popen] = []
        for shard in range(2):
            process, address = self.serve(shard, 2)
            servers.append(process)
            addresses.append(address)
        names = ["one", "two"]
        begun = [0, 0]  # letters of the log when a worker was started
        workers = [self.train(name, addresses) for name in names]
        for trial in range(ARGUMENTS.trials):
            time.sleep(draw.uniform(0.2, 1.5))
            if self.finished(*names) == self.STEPS:
                print(f"the run was over after {trial} trials", file=sys.stderr)
                break
            ended = [i for i in range(4) if draw.random() < 0.5] or [draw.randrange(4)]
            places = [(servers + workers)[i] for i in ended]
            logs = {name: len(self.log(name)) for name in names}
            known = self.finished(*names)
            number = draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
            alive = [place for place in places if place.poll() is None]
            young = [worker for name, worker, since in zip(names, workers, begun) if not self.has_begun(name, since)]
            codes = [0 if place in servers else -number if place in young else 128 + number for place in alive]
            with self.subTest(trial=trial, ended=ended, known=known):
                self.end(alive, number, codes, unsure=0 in codes)
            for i in ended:
                if i < 2:
                    servers[i] = self.serve(i, 2, listen=addresses[i], state="state-1")[0]
            for i in ended:
                if i >= 2:
                    begun[i - 2] = len(self.log(names[i - 2]))
                    workers[i - 2] = self.train(names[i - 2], addresses)
            # Whatever was said to be finished is not done again.
            self.wait_for_progress(names, known)
            for name in names:
                for step in self.went_to(name, logs[name]):
                    self.assertGreaterEqual(step, known, f"trial {trial}: {ended}\n{self.log(name)[logs[name]:]}")
        for name, worker in zip(names, workers):
            self.finish(name, worker)
            self.assertEqual(self.result(name), expected)

    def wait_for_progress(self, names: list[str], known: int) -> None:
        end = time.monotonic() + DEADLINE
        while self.finished(*names) <= known and known < self.STEPS:
            self.assertLess(time.monotonic(), end, "the run does not go on\n" + self.log(names[0]) + self.log(names[1]))
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("--trials", type=int, default=ARGUMENTS.trials)
    parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
    parser.add_argument("--only", metavar="TEST", default="", help="of this file, by name")
    parser.parse_args(namespace=ARGUMENTS)
    ARGUMENTS.seed = ARGUMENTS.seed or int.from_bytes(os.urandom(4), "little")
    ClusterCase.WORKER, ClusterCase.PSERVER = ARGUMENTS.worker, ARGUMENTS.pserver
    Ending.STEPS = max(Ending.STEPS, 40 * ARGUMENTS.trials)
    Ending.DEADLINE = max(Ending.DEADLINE, 4 * ARGUMENTS.trials)
    print(f"seed {ARGUMENTS.seed}", file=sys.stderr)
    unittest.main(argv=[sys.argv[0], "-v"] + ([f"Ending.{ARGUMENTS.only}"] if ARGUMENTS.only else []))


if __name__ == "__main__":
    main()
