"""Goal: whatever the machine is like, nothing is lost, misread or unexplained: file systems without hard links,
without syncs of folders or without locks, a full disk of a worker, names and IPv6, limits of a job, no threads, few
descriptors, variables of a shell that are not set, and metrics of a worker that came later. Real processes.
Usage: edges_machine_test.py PATH_OF_WORKER PATH_OF_PSERVER, with MF_SICK_MACHINE the module of sick_machine.cpp."""

import glob
import json
import os
import pwd
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
import unittest

import own_mounts
from cluster_case import DEADLINE, ClusterCase

MAY_MOUNT = own_mounts.enter()
ClusterCase.PSERVER = os.path.abspath(sys.argv.pop(2))
ClusterCase.WORKER = os.path.abspath(sys.argv.pop(1))
SICK = os.environ.get("MF_SICK_MACHINE", "")


class Edges(ClusterCase):
    STEPS = 8
    CONFIG = ClusterCase.CONFIG + "[snapshot]\nevery_steps = 2\n"

    def sick(self, faults: str) -> dict[str, str]:
        return {**os.environ, "LD_PRELOAD": SICK, "MF_SICK": faults}

    def command(self, *command: str, **more) -> subprocess.CompletedProcess:
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, **more)

    def refused(self, code: int, words: tuple[str, ...], *command: str, **more) -> str:
        """One line on stderr that has the words."""
        done = self.command(*command, **more)
        about = f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        self.assertEqual(done.returncode, code, about)
        self.assertEqual(done.stderr.count("\n"), 1, about)
        for word in words:
            self.assertIn(word, done.stderr, about)
        return done.stderr

    def train_flags(self, out: str, *more: str) -> list[str]:
        return [self.WORKER, "train", "--config", self.config, "--data", self.data, "--threads", "1", "--out",
                os.path.join(self.folder, out), "--steps", str(self.STEPS), *more]

    def serve_flags(self, *more: str, listen: str = "tcp://127.0.0.1:0") -> list[str]:
        return [self.PSERVER, "serve", "--listen", listen, "--shard", "0/1", "--threads", "1", "--data",
                os.path.join(self.folder, "state"), *more]

    def listening(self, *more: str, listen: str = "tcp://127.0.0.1:0", **popen) -> tuple[subprocess.Popen, str]:
        """A server and where it says that it listens; popen: of Popen."""
        with open(os.path.join(self.folder, "pserver.log"), "a", encoding="utf-8") as log:
            process = subprocess.Popen(self.serve_flags(*more, listen=listen), stdout=subprocess.PIPE, stderr=log,
                                       text=True, **popen)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        line = process.stdout.readline()
        self.assertTrue(line.startswith("listening "), self.log("pserver"))
        return process, line.split()[1]


class Addresses(Edges):
    def test_names_are_resolved(self) -> None:
        self.assertEqual(self.listening(listen="tcp://localhost:0")[1][:16], "tcp://127.0.0.1:")
        name = socket.gethostname()
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            self.skipTest(f"this machine does not know its own name, {name}")
        address = self.listening("--insecure", "--data", os.path.join(self.folder, "other"),
                                 listen=f"tcp://{name}:0")[1]
        self.assertRegex(address, r"^tcp://(\d+\.\d+\.\d+\.\d+|\[.+\]):\d+$")
        worker = self.train("named", [address.replace("127.0.0.1", "localhost")])
        self.finish("named", worker)

    def test_ipv6(self) -> None:
        try:
            with socket.socket(socket.AF_INET6) as one:
                one.bind(("::1", 0))
        except OSError:
            self.skipTest("this machine has no IPv6")
        server, address = self.listening("--metrics", "[::1]:0", listen="tcp://[::1]:0")
        self.assertRegex(address, r"^tcp://\[::1\]:\d+$")
        metrics = server.stdout.readline().split()[1]
        self.assertRegex(metrics, r"^\[::1\]:\d+$")
        self.finish("six", self.train("six", [address], "--metrics", "[::1]:0"))
        self.assertGreater(self.scrape(metrics)["mf_step"], 0)
        self.wait_for("the last snapshot", lambda: "step 8 of 8" in self.command(
            self.PSERVER, "runs", "--pservers", address).stdout)
        asked = self.command(self.WORKER, "buckets", "--pservers", address)
        self.assertEqual(asked.returncode, 0, asked.stderr)
        again = self.refused(1, (address, "Address already in use"),
                             *self.serve_flags("--data", os.path.join(self.folder, "x"), listen=address))
        self.assertIn("cannot listen", again)

    def test_beyond_loopback_needs_keys(self) -> None:
        for host in ("0.0.0.0", "*", "[::]", "[::ffff:0.0.0.0]"):
            self.refused(2, ("--insecure",), *self.serve_flags(listen=f"tcp://{host}:0"))
        for host in ("127.8.9.1", "[::ffff:127.0.0.1]"):
            process, address = self.listening(listen=f"tcp://{host}:0")
            self.assertTrue(address.startswith("tcp://127."), address)
            process.kill()
            process.wait()

    def test_what_is_none(self) -> None:
        for listen, words in {"tcp://127.0.0.1": ("no port",), "127.0.0.1:7000": ("tcp://HOST:PORT",),
                              "tcp://::1:7000": ("brackets",), "tcp://[::1:7000": ("no ]",),
                              "tcp://[nonsense]:7000": ("IPv6",), "tcp://127.0.0.1:70000": ("70000", "65535"),
                              "tcp://127.0.0.1:-1": ("-1",), "tcp://127.0.0.1:7 ": ("space",),
                              "tcp://:7000": ("no host", "0.0.0.0"),
                              "tcp://no-such-host.invalid:7000": ("no-such-host.invalid", "give an address"),
                              "tcp://192.0.2.1:7000": ("give an address of this machine",)}.items():
            more = ("--insecure",) if "192" in listen else ()
            named = () if "192" in listen else ("--listen", listen.removeprefix("tcp://"))
            self.refused(2, (*named, *words), *self.serve_flags(*more, listen=listen))
        here = "tcp://127.0.0.1:1"
        lists = {f"{here},,{here}": ("server 1 is empty",), f"{here},": ("server 1 is empty",),
                 f"{here},tcp://127.0.0.1:1": ("twice",), "tcp://Host:1,tcp://host:1": ("twice",),
                 "tcp://127.0.0.1:0": ("port 0",), "tcp://127.0.0.1": ("no port",), f"{here} {here}": ("space",),
                 "127.0.0.1:1": ("tcp://HOST:PORT",), "tcp://*:1": ("no name or number",)}
        for servers, words in lists.items():
            for command in (self.train_flags("o"), [self.WORKER, "buckets"], [self.PSERVER, "runs"]):
                self.refused(2, ("--pservers", *words), *command, "--pservers", servers)
        for metrics, words in {"9000": ("no port",), ":9000": ("no host",), "127.0.0.1:x": ("port x",),
                               "192.0.2.1:0": ("not this machine's",)}.items():
            self.refused(2, ("--metrics", *words), *self.serve_flags("--metrics", metrics))
            self.refused(2, ("--metrics", *words), *self.train_flags("o", "--metrics", metrics, "--log", "off"))

    def test_a_name_that_nobody_knows_is_said(self) -> None:
        worker = self.train("waits", ["tcp://no-such-host.invalid:7"], "--set", "exchange.deadline_seconds=1")
        self.assertEqual(worker.wait(DEADLINE), 1)
        self.assertIn("no-such-host.invalid is not known here", self.log("waits"))


class CommandLine(Edges):
    # Texts, which may be empty.
    TEXTS = {("generate", "--prompt")}

    def commands(self, program: str) -> list[list[str]]:
        """All commands with each of their flags that has a value."""
        names = re.findall(r"^  (\w+) {2,}\S", self.command(program, "--help").stdout.split("Subcommands:")[1], re.M)
        self.assertGreater(len(names), 4)
        found = []
        for name in names:
            text = self.command(program, name, "--help").stdout
            # TEXT, INT, FLOAT or {a,b}; behind a flag without a value stands its meaning or "Needs: --other".
            for flag in re.findall(r"^  (--[\w-]+) (?:[A-Z]{2,}|\{)", text, re.M):
                found.append([name, flag])
        return found

    def test_empty_values(self) -> None:
        for program in (self.WORKER, self.PSERVER):
            flags = self.commands(program)
            self.assertGreater(len(flags), 10, flags)
            for name, flag in flags:
                if (name, flag) in self.TEXTS:
                    continue
                self.refused(2, (f"{flag} is empty",), program, name, flag, "")
                self.refused(2, (f"{flag} is empty",), program, name, f"{flag}=", "--help-is-no-value")
        for name in ("inspect", "runs"):
            self.refused(2, ("dir is empty",), self.PSERVER, name, "")
        # A variable that is not set and not quoted leaves nothing at all.
        self.refused(2, ("--config has no value", "--data"), self.WORKER, "train", "--config", "--data", "x")
        self.refused(2, ("--keys has no value", "--metrics"),
                     *self.serve_flags("--keys", "--metrics", "127.0.0.1:0"))
        self.assertFalse(os.path.exists(os.path.join(self.folder, "state")))

    def test_the_last_one_counts(self) -> None:
        done = self.command(*self.train_flags("o", "--steps", "3", "--steps", "2", "--threads", "1", "--fresh",
                                              "--fresh"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.steps("o"), 2)
        process, address = self.listening("--threads", "1", "--data", os.path.join(self.folder, "last"))
        self.assertTrue(os.path.isdir(os.path.join(self.folder, "last")))
        self.assertFalse(os.path.exists(os.path.join(self.folder, "state")))
        self.assertIsNone(process.poll(), address)

    def test_version(self) -> None:
        for program in (self.WORKER, self.PSERVER):
            done = self.command(program, "--version")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(done.stdout, rf"^{os.path.basename(program)} \d+\.\d+\.\d+(, commit [0-9a-f]+)?, "
                                          r"(GCC|Clang) \d+.*\n$")


@unittest.skipUnless(SICK, "MF_SICK_MACHINE is not set")
class FileSystems(Edges):
    def published(self) -> list[str]:
        return sorted(os.path.basename(path) for path in
                      glob.glob(os.path.join(self.folder, "state", "run-*", "shard-0-of-1", "step-*")))

    def train_and_restart(self, faults: str, *more: str) -> None:
        """A training with a restart of all in its midst, snapshots before and after it."""
        self.STEPS = 1_000_000
        server, address = self.listening(*more, env=self.sick(faults))
        worker = self.train("a", [address])
        self.wait_for("snapshots", lambda: len(self.published()) >= 2 and self.steps("a") >= 8)
        for process in (worker, server):
            process.kill()
            process.wait()
        before = self.published()
        self.assertNotIn("cannot", self.log("pserver"))
        server, address = self.listening(*more, env=self.sick(faults))
        worker = self.train("b", [address])
        self.wait_for("snapshots after a restart", lambda: self.published() and set(self.published()) - set(before))
        self.wait_for("the run goes on", lambda: "the run goes on after step" in self.log("b"))
        for process in (worker, server):
            process.kill()
            process.wait()
        done = self.command(self.PSERVER, "inspect", os.path.join(self.folder, "state"), "--verify")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("verified", done.stdout)

    def test_no_hard_links(self) -> None:
        for error in ("EPERM", "ENOTSUP", "EMLINK", "ENOSYS"):
            with self.subTest(error):
                self.train_and_restart(f"link={error}")
                self.assertEqual(self.log("pserver").count("no hard links here"), 2, "once a process")
                shutil.rmtree(os.path.join(self.folder, "state"))
                for name in ("a", "b"):
                    shutil.rmtree(os.path.join(self.folder, name))
                for name in ("pserver", "a", "b"):
                    os.remove(os.path.join(self.folder, name + ".log"))

    def test_no_hard_links_change_no_result(self) -> None:
        expected = self.embedded()
        done = self.command(*self.train_flags("copied", "--export", self.model("copied")),
                            env=self.sick("link=EPERM,fsync_folder=EINVAL,fcntl_lock=ENOLCK"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.result("copied"), expected)

    def test_no_syncs_of_folders(self) -> None:
        self.train_and_restart("fsync_folder=EINVAL")

    def test_no_locks(self) -> None:
        for error in ("ENOLCK", "ENOTSUP", "ENOSYS"):
            for command in (self.serve_flags(), self.train_flags("o", "--log", "off")):
                self.refused(2, ("has no locks", "--no-lock"), *command, env=self.sick(f"flock={error}"))
        keygen = [self.PSERVER, "keygen", "--out", os.path.join(self.folder, "keys")]
        for command in (keygen, [*keygen, "--add-client", "more"]):
            done = self.command(*command, env=self.sick("flock=ENOLCK"))
            self.assertEqual(done.returncode, 0, done.stderr)
        self.train_and_restart("flock=ENOLCK,fcntl_lock=ENOLCK", "--no-lock")
        self.assertIn("nothing keeps a second process off", self.log("pserver"))
        self.refused(2, ("without locks", "by hand"), self.PSERVER, "runs", os.path.join(self.folder, "state"),
                     "--delete", os.path.basename(self.run_folder("state")).removeprefix("run-"),
                     env=self.sick("flock=ENOLCK"))

    def test_no_rename_over(self) -> None:
        self.refused(2, ("cannot be replaced by renaming", "another file system"), *self.train_flags("o"),
                     "--log", "off", env=self.sick("rename_over=EEXIST"))

    def test_a_full_quota_is_a_full_disk(self) -> None:
        address = self.listening()[1]
        self.refused(1, ("quota",), *self.train_flags("o", "--pservers", address, "--log", "off"),
                     env=self.sick("write=EDQUOT"))

    @unittest.skipUnless(MAY_MOUNT, "nobody here may mount a file system")
    def test_read_only(self) -> None:
        self.finish("o", self.train("o", []))
        state = os.path.join(self.folder, "o", "state")
        subprocess.run(["mount", "--bind", state, state], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", state], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", state], check=True)
        for command in ([self.PSERVER, "inspect", state, "--verify"], [self.PSERVER, "runs", state],
                        [self.WORKER, "export", "--from", state, "--out", self.model("again")],
                        [self.WORKER, "eval", "--model", state, "--data", self.data, "--windows", "1"],
                        [self.PSERVER, "reshard", "--from", state, "--to", os.path.join(self.folder, "n"),
                         "--shards", "2"]):
            done = self.command(*command)
            self.assertEqual(done.returncode, 0, f"{command}: {done.stderr}")
        with open(self.model("o"), "rb") as one, open(self.model("again"), "rb") as other:
            self.assertEqual(one.read(), other.read())
        self.refused(2, ("Read-only file system",), *self.serve_flags("--data", state))

    def test_names_differ_by_more_than_case(self) -> None:
        self.finish("o", self.train("o", []))
        for folder, folders, files in os.walk(self.folder):
            names = folders + files
            self.assertEqual(len({name.lower() for name in names}), len(names), folder)


@unittest.skipUnless(MAY_MOUNT, "nobody here may mount a small disk")
class FullDisk(Edges):
    STEPS = 300

    def test_a_worker_goes_on(self) -> None:
        address = self.listening()[1]
        out = os.path.join(self.folder, "small")
        os.mkdir(out)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", out], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", out], check=True)
        worker = self.train("small", [address], "--export", os.path.join(out, "model.safetensors"))
        self.assertEqual(worker.wait(DEADLINE), 1, self.log("small"))
        log = self.log("small")
        self.assertEqual(log.count("metrics.jsonl: cannot write it: No space left on device"), 1, log)
        self.assertIn("the run goes on", log)
        self.assertRegex(log, r"metrics\.jsonl: \d+ lines are lost")
        self.assertIn("the plot is not written", log)
        last = log.splitlines()[-1]
        self.assertTrue(last.startswith("error: --export"), last)
        for words in ("No space left", "the run itself is finished", "worker export --from"):
            self.assertIn(words, last)
        with open(os.path.join(out, "metrics.jsonl"), encoding="ascii") as file:
            lines = file.readlines()
        self.assertTrue(all(line.endswith("}\n") for line in lines), "a half line")
        self.assertEqual([json.loads(line)["step"] for line in lines], list(range(1, len(lines) + 1)))
        self.assertLess(len(lines), self.STEPS)
        # The word of the error is true.
        self.wait_for("the last snapshot", lambda: f"step {self.STEPS}" in self.command(
            self.PSERVER, "runs", os.path.join(self.folder, "state")).stdout)
        done = self.command(self.WORKER, "export", "--from", os.path.join(self.folder, "state"), "--out",
                            self.model("later"))
        self.assertIn(f"step {self.STEPS} exported", done.stdout, done.stderr)

    def test_lines_are_written_when_there_is_room_again(self) -> None:
        self.STEPS = 3000
        address = self.listening()[1]
        out = os.path.join(self.folder, "small")
        os.mkdir(out)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", out], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", out], check=True)
        filler = os.path.join(out, "filler")
        worker = self.train("small", [address], "--export", self.model("small"))
        self.wait_for_steps("small", 5)
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 12))
            except OSError:
                pass
        self.wait_for("it is said", lambda: "the run goes on" in self.log("small"))
        behind = self.steps("small")
        self.wait_for("the run goes on", lambda: self.scraped_step(address) > behind + 50)
        self.assertLess(self.steps("small"), self.scraped_step(address))
        os.remove(filler)
        self.wait_for("it works again", lambda: "writing works again; no line is lost" in self.log("small"))
        worker.kill()
        worker.wait()
        with open(os.path.join(out, "metrics.jsonl"), encoding="ascii") as file:
            lines = file.readlines()
        steps = [json.loads(line)["step"] for line in lines if line.endswith("\n")]
        self.assertGreater(len(steps), behind + 40)
        self.assertEqual(steps, list(range(1, len(steps) + 1)))

    def scraped_step(self, address: str) -> int:
        asked = self.command(self.WORKER, "buckets", "--pservers", address)
        return int(re.match(r"step (\d+);", asked.stdout)[1])


class Metrics(Edges):
    def test_a_worker_that_comes_later(self) -> None:
        self.STEPS = 1_000_000
        address = self.listening()[1]
        self.train("first", [address])
        self.wait_for_steps("first", 300)
        before = self.steps("first")
        self.train("later", [address], "--metrics", "127.0.0.1:0")
        self.wait_for_steps("later", before + 100)
        place = re.search(r"metrics on (\S+)", self.log("later"))[1]
        tokens, step = self.scrape(place)["mf_train_tokens_total"], self.scrape(place)["mf_step"]
        lines = {}
        for name in ("first", "later"):
            with open(os.path.join(self.folder, name, "metrics.jsonl"), encoding="ascii") as file:
                lines[name] = [json.loads(line) for line in file if line.endswith("\n")]
        speeds = [line["tokens_per_second"] for line in lines["first"]]
        self.assertIsNone(speeds[0], "nobody timed the beginning of the first step")
        most = max(speed for speed in speeds if speed is not None)
        told = [line["tokens_per_second"] for line in lines["later"]]
        self.assertEqual(set(told[:before]), {None})
        timed = [speed for speed in told if speed is not None]
        self.assertGreater(len(timed), 50)
        # Two answers may come close together; those of steps not timed were a thousand times as fast.
        self.assertLess(statistics.median(timed), 2 * most)
        self.assertLess(max(timed), 100 * most)
        per_step = lines["first"][0]["tokens"]
        self.assertGreater(tokens, 0)
        self.assertLessEqual(tokens, per_step * (step - before))


class Limits(Edges):
    def group(self) -> list[tuple[str, str, str]]:
        """A cgroup below this process's own with 1 processor and 1 GiB, in each hierarchy that has it: the folder,
        and the files of both limits."""
        made = []
        with open("/proc/self/mountinfo", encoding="ascii") as file:
            mounts = [line.split() for line in file]
        with open("/proc/self/cgroup", encoding="ascii") as file:
            own = {names: path for _, names, path in (line.strip().split(":", 2) for line in file)}
        for fields in mounts:
            kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
            if kind == "cgroup2":
                wanted, path = (("cpu.max", "100000 100000"), ("memory.max", str(1 << 30))), own.get("", "/")
            elif kind == "cgroup" and ("cpu" in options or "memory" in options):
                wanted = ((("cpu.cfs_quota_us", "100000"),) if "cpu" in options
                          else (("memory.limit_in_bytes", str(1 << 30)),))
                path = next((path for names, path in own.items()
                             if ("cpu" if "cpu" in options else "memory") in names.split(",")), "/")
            else:
                continue
            folder = os.path.normpath(f"{fields[4]}/{path}/mf-test-{os.getpid()}")
            try:
                os.mkdir(folder)
                self.addCleanup(os.rmdir, folder)
                for name, value in wanted:
                    with open(os.path.join(folder, name), "w", encoding="ascii") as file:
                        file.write(value)
                    made.append((folder, name, value))
            except OSError:
                continue
        return made

    def test_a_group_of_its_own(self) -> None:
        made = self.group()
        if not made:
            self.skipTest("nobody here may make a cgroup with limits")

        def enter() -> None:
            for folder in {folder for folder, _, _ in made}:
                with open(os.path.join(folder, "cgroup.procs"), "w", encoding="ascii") as file:
                    file.write("0")

        flags = self.serve_flags()
        at = flags.index("--threads")
        del flags[at:at + 2]
        process = subprocess.Popen(flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=enter)
        try:
            self.assertIn("listening", process.stdout.readline())
        finally:
            process.kill()
            said = process.communicate()[1]
        for folder, name, _ in made:
            if "cpu" in name and os.cpu_count() > 1:
                self.assertIn(f"1 processor ({folder}/{name})", said)
            elif "memory" in name:
                self.assertIn(f"1.00 GiB of memory ({folder}/{name})", said)

    def test_affinity(self) -> None:
        one = {min(os.sched_getaffinity(0))}
        process = self.listening(preexec_fn=lambda: os.sched_setaffinity(0, one))[0]
        self.assertIn("may use 1 processor", self.log("pserver"))
        self.assertEqual(os.sched_getaffinity(process.pid), one)
        # What OpenBLAS is shown while it is loaded is not what the worker keeps.
        self.STEPS = 1_000_000
        worker = self.train("w", [])
        self.wait_for_steps("w", 1)
        self.assertEqual(os.sched_getaffinity(worker.pid), os.sched_getaffinity(0))


class Threads(Edges):
    def no_threads(self) -> dict:
        """What to start a process with that gets no thread: by its user's limit, or by the module."""
        if os.getuid() != 0:
            return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))}
        nobody = pwd.getpwnam("nobody").pw_uid

        def become() -> None:
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
            try:
                os.setgroups([])
                os.setuid(nobody)
            except OSError:
                pass  # root of a namespace only, whom limits bind

        return {"preexec_fn": become}

    def ways(self) -> list[dict]:
        return [self.no_threads(), *([{"env": self.sick("pthread_create=EAGAIN")}] if SICK else [])]

    def test_one_line(self) -> None:
        self.finish("o", self.train("o", []))
        os.chmod(self.folder, 0o777)
        state = os.path.join(self.folder, "o", "state")
        model, data, config = self.model("o"), self.data, self.config
        quiet = ["--log", "off"]
        for way in self.ways():
            for command in ([self.WORKER, "eval", "--model", model, "--data", data, "--threads", "2"],
                            [self.WORKER, "eval", "--model", state, "--data", data, "--threads", "2"],
                            [self.WORKER, "score", "--model", model, "--text", data, "--threads", "2"],
                            [self.WORKER, "generate", "--model", model, "--prompt", "a", "--threads", "2"],
                            [self.WORKER, "export", "--from", state, "--out", model + "2", "--threads", "2"],
                            [*self.train_flags("none"), *quiet],
                            [self.WORKER, "buckets", "--pservers", "tcp://127.0.0.1:1"],
                            [self.PSERVER, "runs", "--pservers", "tcp://127.0.0.1:1"], self.serve_flags()):
                self.refused(1, ("threads", "ulimit -u"), *command, **way)
            for command in ([self.WORKER, "--help"], [self.WORKER, "--version"], [self.WORKER, "options"],
                            [self.WORKER, "flops", "--config", config], [self.PSERVER, "--help"],
                            [self.PSERVER, "inspect", state], [self.PSERVER, "runs", state],
                            [self.PSERVER, "keygen", "--out", os.path.join(self.folder, f"keys-{id(way)}")]):
                done = self.command(*command, **way)
                self.assertEqual((done.returncode, done.stderr), (0, ""), command)


class Descriptors(Edges):
    FEW = 48

    def idle(self, address: str, count: int) -> list[socket.socket]:
        host, port = address.removeprefix("tcp://").split(":")
        return [socket.create_connection((host, int(port))) for _ in range(count)]

    def seconds(self, pid: int) -> float:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def few(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.FEW, self.FEW))

    def test_a_crowd_at_the_door(self) -> None:
        server, address = self.listening("--metrics", "127.0.0.1:0", preexec_fn=self.few)
        metrics = server.stdout.readline().split()[1]
        crowd = self.idle(address, 100)
        self.addCleanup(lambda: [one.close() for one in crowd])
        time.sleep(0.5)
        before, start = self.seconds(server.pid), time.monotonic()
        time.sleep(3)
        used = (self.seconds(server.pid) - before) / (time.monotonic() - start)
        print(f"a server with {self.FEW} descriptors and 100 idle connections: {used:.1%} of a core", flush=True)
        self.assertLess(used, 0.2)
        self.assertIn("no room for more connections", self.log("pserver"))
        self.assertGreater(self.scrape(metrics)['mf_connections_refused_total{reason="descriptors"}'], 40)
        # Files keep their room, and whoever comes later is served as soon as there is some.
        self.assertLess(len(os.listdir(f"/proc/{server.pid}/fd")), self.FEW)
        worker = self.train("w", [address])
        time.sleep(1)
        for one in crowd:
            one.close()
        self.finish("w", worker)
        self.assertEqual(self.command(self.PSERVER, "runs", "--pservers", address).returncode, 0)

    def test_all_that_is_allowed(self) -> None:
        """The soft limit is raised to the hard one."""
        server, _ = self.listening(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 512)))
        self.assertEqual(resource.prlimit(server.pid, resource.RLIMIT_NOFILE), (512, 512))

    def test_too_few_to_start(self) -> None:
        """One line, whatever the number is."""
        for allowed in range(8, 48, 3):
            done = subprocess.Popen(self.serve_flags(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE,
                                                                          (allowed, allowed)))
            served = done.stdout.readline().startswith("listening")
            if served:
                done.terminate()
            error = done.communicate(timeout=DEADLINE)[1]
            self.assertIn(done.returncode, (0, 1, 2), f"{allowed}: {error}")
            if not served:
                self.assertTrue(error.splitlines()[-1].startswith("error: "), f"{allowed}: {error}")

    def test_a_file_that_may_not_grow(self) -> None:
        """ulimit -f is an error of a write, not the end."""
        address = self.listening()[1]
        self.STEPS = 200
        done = self.command(*self.train_flags("o", "--pservers", address),
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("File too large", done.stderr)
        self.assertIn("the run goes on", done.stderr)


if __name__ == "__main__":
    unittest.main()
