"""Goal: whatever streams, folders, languages, names and terminals a program is started with, each command of both
does its work and says so, or ends with one clear line and the right exit code.
Usage: environment_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import fcntl
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import unittest

from cluster_case import DEADLINE, ClusterCase, words

ClusterCase.PSERVER = os.path.abspath(sys.argv.pop(2))
ClusterCase.WORKER = os.path.abspath(sys.argv.pop(1))
NOBODY = 65534


class Environment(ClusterCase):
    # A model of a few kilobytes.
    CONFIG = """[model]
d = 64
layers = 1
heads = 2
K = 16
tau = 4
sequence = 16
[train]
micro_batches = 1
batch = 1
eval_every = 0
"""
    STEPS = 10

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def run_it(self, command: list, **how) -> subprocess.CompletedProcess:
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return subprocess.run(command, timeout=DEADLINE, check=False, **how)

    def ends(self, code: int, command: list, *named: str, **how) -> subprocess.CompletedProcess:
        """With this exit code and, unless it is 0 or that of a signal, one line at the end that names these things."""
        result = self.run_it(command, **how)
        said = (result.stderr or b"").decode(errors="replace")
        about = f"{command}\n{result.returncode}\n{result.stdout}\n{said}"
        self.assertEqual(result.returncode, code, about)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        self.assertEqual(errors, said.splitlines()[-1:] if code in (1, 2) else [], about)
        for word in named:
            self.assertIn(word, errors[0], about)
        return result

    def training(self, *more, out=None, data=None, steps: int = 0) -> list:
        return [self.WORKER, "train", "--config", self.config, "--data", data or self.data, "--out",
                out or self.path("out"), "--threads", "1", "--steps", str(steps or self.STEPS), *more]

    def trained(self) -> str:
        """A folder with snapshots and out.safetensors beside it."""
        self.ends(0, self.training("--export", self.model("out")))
        return self.path("out/state")

    def speaking(self) -> list[list[str]]:
        """Every command whose result is what it says on standard output."""
        state, model = self.trained(), self.model("out")
        running, address = self.serve(0, 1)
        run = self.start(self.training("--pservers", address, out=self.path("on"), steps=1_000_000), "on.log")
        self.wait_for_steps("on", 1)
        self.assertIsNone(running.poll())
        self.assertIsNone(run.poll())
        return [[self.WORKER, "--help"], [self.WORKER, "--version"], [self.WORKER, "train", "--help"],
                [self.WORKER, "options"], [self.WORKER, "options", "--metrics"],
                [self.WORKER, "flops", "--config", self.config],
                [self.WORKER, "eval", "--model", model, "--data", self.data, "--windows", "1"],
                [self.WORKER, "score", "--model", model, "--text", self.config],
                [self.WORKER, "score", "--model", model, "--text", self.data, "--per-token"],
                [self.WORKER, "generate", "--model", model, "--prompt", "the", "--tokens", "5"],
                [self.WORKER, "export", "--from", state, "--out", self.path("e")],
                [self.WORKER, "buckets", "--pservers", address],
                [self.PSERVER, "--help"], [self.PSERVER, "--version"], [self.PSERVER, "serve", "--help"],
                [self.PSERVER, "inspect", state], [self.PSERVER, "runs", state],
                [self.PSERVER, "runs", "--pservers", address],
                [self.PSERVER, "keygen", "--out", self.path("keys")],
                [self.PSERVER, "reshard", "--from", state, "--to", self.path("two"), "--shards", "2"],
                [self.WORKER, "stop", "--pservers", address]]

    def again(self) -> None:
        """What the last round of the commands has made is removed."""
        for name in ("keys", "two", "e"):
            shutil.rmtree(self.path(name), ignore_errors=True)


class Streams(Environment):
    def test_output_that_cannot_be_written(self) -> None:
        closed = lambda: os.close(1)
        with open("/dev/full", "wb") as full:
            for number, command in enumerate(self.speaking()):
                with self.subTest(command):
                    self.ends(1, command, "standard output cannot be written: ", stdout=full)
                    if number % 3 == 0:
                        self.again()
                        self.ends(1, command, "standard output cannot be written: Bad file descriptor", stdout=None,
                                  preexec_fn=closed)

    def test_a_reader_that_goes(self) -> None:
        """As `head` does: quietly, as by SIGPIPE, whatever the parent did about that signal."""
        for number, command in enumerate(self.speaking()):
            with self.subTest(command):
                read, write = os.pipe()
                os.close(read)
                self.ends(128 + signal.SIGPIPE, command, stdout=write, restore_signals=number % 2 == 0)
                os.close(write)

    def test_generate_does_not_go_on_alone(self) -> None:
        self.trained()
        process = self.start([self.WORKER, "generate", "--model", self.model("out"), "--prompt", "the", "--tokens",
                              str(10 ** 9)], "generate.log")
        self.assertEqual(process.stdout.buffer.read(3), b"the")
        process.stdout.close()
        self.assertEqual(process.wait(DEADLINE), 128 + signal.SIGPIPE)
        self.assertEqual(self.log("generate"), "")

    def test_a_model_does_not_need_listeners(self) -> None:
        """Closed streams, a full log, a log that nobody reads any more: training and servers go on, and no file that
        they open gets their messages."""
        self.trained()
        with open(self.model("out"), "rb") as file:
            expected = hashlib.sha256(file.read()).hexdigest()

        def close_all() -> None:
            for stream in range(3):
                os.close(stream)

        def read_by_nobody() -> None:
            read, write = os.pipe()
            os.close(read)
            os.dup2(write, 1)
            os.dup2(write, 2)

        def full() -> None:
            stream = os.open("/dev/full", os.O_WRONLY)
            os.dup2(stream, 1)
            os.dup2(stream, 2)

        for number, streams in enumerate((close_all, read_by_nobody, full)):
            with self.subTest(streams):
                out, model, port = self.path(f"o{number}"), self.model(f"m{number}"), self.free_port()
                server = subprocess.Popen([self.PSERVER, "serve", "--listen", f"tcp://127.0.0.1:{port}", "--shard",
                                           "0/1", "--data", self.path(f"s{number}")], preexec_fn=streams)
                self.addCleanup(server.wait)
                self.addCleanup(server.kill)
                ended = subprocess.run(self.training("--pservers", f"tcp://127.0.0.1:{port}", "--export", model, out=out),
                                       timeout=DEADLINE, check=False, preexec_fn=streams)
                self.assertEqual(ended.returncode, 0)
                with open(model, "rb") as file:
                    self.assertEqual(hashlib.sha256(file.read()).hexdigest(), expected)
                self.assertIsNone(server.poll())
                server.send_signal(signal.SIGTERM)
                self.assertEqual(server.wait(DEADLINE), 0)
                self.assertEqual(self.run_it([self.PSERVER, "inspect", self.path(f"s{number}"), "--verify"]).returncode, 0)

    def free_port(self) -> int:
        import socket
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return listener.getsockname()[1]

    def test_errors_without_a_place_for_them(self) -> None:
        for streams in (lambda: os.close(2), lambda: (os.close(1), os.close(2))):
            self.assertEqual(self.run_it([self.WORKER, "eval", "--model", "none", "--data", "none"], stderr=None,
                                         preexec_fn=streams).returncode, 2)


class Places(Environment):
    def test_homes_and_temporary_folders(self) -> None:
        """Neither is used."""
        variables = {"PATH": os.environ["PATH"]}
        os.mkdir(self.path("closed"), 0o000)
        for name, home in enumerate((None, "/none", self.path("closed"))):
            for key in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
                variables.pop(key, None)
                if home is not None:
                    variables[key] = home
            self.ends(0, self.training("--export", self.path(f"m{name}"), out=self.path(f"o{name}")), env=variables)
            self.ends(0, [self.PSERVER, "inspect", self.path(f"o{name}/state")], env=variables)
            with open(self.data, "rb") as pipe_of:
                # A pipe is read into memory.
                self.ends(0, self.training(data="/dev/stdin", out=self.path(f"p{name}")), env=variables,
                          input=pipe_of.read())

    def test_a_working_directory_that_is_read_only_or_gone(self) -> None:
        for number, mode in enumerate((0o555, 0o000)):
            where = self.path(f"cwd{number}")
            os.mkdir(where)
            gone = lambda: (os.chdir(where), os.rmdir(where)) if mode == 0 else os.chdir(where)
            if mode:
                os.chmod(where, mode)
            self.ends(0, self.training(out=self.path(f"o{number}")), preexec_fn=gone)
            self.assertEqual(os.listdir(where) if mode else [], [])

    def test_a_relative_out_in_a_read_only_directory(self) -> None:
        where = self.path("cwd")
        os.mkdir(where, 0o555)
        os.chmod(self.folder, 0o755)

        def nobody() -> None:
            os.chdir(where)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)

        if os.geteuid() == 0 and not self.may_run(nobody):
            self.skipTest("another user may not run the programs of this build")
        self.ends(2, self.training(out="out"), "out: cannot make the folder: Permission denied", "--out",
                  preexec_fn=nobody)
        self.ends(2, [self.WORKER, "export", "--from", "/none", "--out", "m"], "--out m: cannot be written",
                  preexec_fn=nobody)
        self.ends(2, [self.PSERVER, "serve", "--listen", "tcp://127.0.0.1:0", "--shard", "0/1", "--data", "s"],
                  "--data", "Permission denied", preexec_fn=nobody)
        self.ends(2, [self.PSERVER, "keygen", "--out", "keys"], "keys: cannot make the folder: Permission denied", "--out", preexec_fn=nobody)

    def may_run(self, nobody) -> bool:
        try:
            return self.run_it([self.WORKER, "--version"], preexec_fn=nobody).returncode == 0
        except (PermissionError, subprocess.SubprocessError):
            return False

    def test_out_that_is_a_link_or_a_file(self) -> None:
        os.mkdir(self.path("elsewhere"))
        os.symlink("elsewhere", self.path("link"))
        self.ends(0, self.training("--export", self.path("link/m"), out=self.path("link")))
        self.assertIn("run.json", os.listdir(self.path("elsewhere")))
        self.ends(0, self.training("--steps", "20", "--fresh", out=self.path("link/deeper")))
        self.ends(2, self.training("--fresh", out=self.path("link")), "--fresh")
        os.symlink("nowhere", self.path("dangling"))
        os.symlink("loop", self.path("loop"))
        for name in ("dangling", "loop", "data.txt", "data.txt/below"):
            self.ends(2, self.training(out=self.path(name)), name, "--out")
            self.ends(2, [self.PSERVER, "serve", "--listen", "tcp://127.0.0.1:0", "--shard", "0/1", "--data",
                          self.path(name)], "--data", name)

    def test_two_workers_with_one_out(self) -> None:
        address = self.serve(0, 1)[1]
        for where in (["--pservers", address], []):
            out = self.path(f"o{len(where)}")
            one = self.start(self.training(*where, out=out, steps=1_000_000), "one.log")
            self.wait_for_steps(os.path.basename(out), 2)
            self.ends(2, self.training(*where, out=out, steps=1_000_000), "another worker writes there", "--out")
            os.symlink(out, out + "-link")
            self.ends(2, self.training(*where, out=out + "-link", steps=1_000_000), "another worker writes there")
            one.send_signal(signal.SIGTERM)
            self.assertEqual(one.wait(DEADLINE), 128 + signal.SIGTERM)
            with open(os.path.join(out, "metrics.jsonl"), encoding="ascii") as file:
                steps = [json.loads(line)["step"] for line in file]
            self.assertEqual(steps, sorted(set(steps)))
            # Whoever was killed holds nothing.
            one = self.start(self.training(*where, out=out, steps=1_000_000), "one.log")
            self.wait_for_steps(os.path.basename(out), len(steps) + 1)
            one.kill()
            one.wait()
            again = self.start(self.training(*where, out=out, steps=1_000_000), "one.log")
            time.sleep(0.5)
            self.assertIsNone(again.poll(), self.log("one"))
            again.kill()

    def test_umask(self) -> None:
        """A narrow one does not hinder, and a wide one gives no secret away."""
        for mask in (0o077, 0o000):
            out, keys = self.path(f"o{mask}"), self.path(f"k{mask}")
            self.ends(0, self.training("--export", out + ".model", out=out), preexec_fn=lambda: os.umask(mask))
            self.ends(0, self.training("--export", out + ".model", out=out), preexec_fn=lambda: os.umask(mask))
            self.ends(0, [self.PSERVER, "inspect", out + "/state", "--verify"])
            self.ends(0, [self.PSERVER, "keygen", "--out", keys], preexec_fn=lambda: os.umask(mask))
            for at, _, names in os.walk(keys):
                for name in names:
                    if name.endswith(".key"):
                        self.assertEqual(os.stat(os.path.join(at, name)).st_mode & 0o077, 0, name)
            others = 0o077 if mask == 0o077 else 0o022
            for at, _, names in os.walk(out):
                for name in names:
                    mode = os.stat(os.path.join(at, name)).st_mode
                    self.assertEqual(mode & (others if mask else 0o002), 0, os.path.join(at, name))


class Languages(Environment):
    LOCALE = "de_DE.UTF-8"

    def variables(self) -> dict[str, str]:
        """A language whose numbers have commas, made for the test."""
        where = self.path("locales")
        if not os.path.exists(where):
            os.mkdir(where)
            made = self.run_it(["localedef", "-i", "de_DE", "-f", "UTF-8", os.path.join(where, self.LOCALE)])
            if not os.path.exists(os.path.join(where, self.LOCALE, "LC_NUMERIC")):
                self.skipTest(f"no localedef, or no source of {self.LOCALE}: {made.stderr}")
        variables = {**os.environ, "LOCPATH": where, "LC_ALL": self.LOCALE, "LANG": self.LOCALE}
        said = self.run_it(["locale", "decimal_point"], env=variables).stdout
        self.assertEqual(said, b",\n")
        return variables

    def test_numbers_keep_their_points(self) -> None:
        found = []
        for number, variables in enumerate((self.variables(), {**os.environ, "LC_ALL": "C"})):
            out = self.path(f"o{number}")
            self.ends(0, self.training("--set", "train.lr=0.0025", "--export", self.model(f"o{number}"), out=out),
                      env=variables)
            with open(os.path.join(out, "metrics.jsonl"), encoding="ascii") as file:
                lines = [re.sub(r'"tokens_per_second":[^,]*', "", line) for line in file]
            self.assertEqual(len(lines), self.STEPS)
            with open(os.path.join(out, "loss.svg"), encoding="utf-8") as file:
                drawn = file.read()
            with open(os.path.join(out, "run.json"), encoding="utf-8") as file:
                run = json.load(file)
            self.assertEqual(run["config"]["train"]["lr"], 0.0025)
            state, model = os.path.join(out, "state"), self.model(f"o{number}")
            said = [self.ends(0, command, env=variables).stdout for command in
                    ([self.WORKER, "eval", "--model", model, "--data", self.data],
                     [self.WORKER, "score", "--model", model, "--text", self.config, "--per-token"],
                     [self.WORKER, "flops", "--config", self.config], [self.WORKER, "options"],
                     [self.WORKER, "flops", "--config", self.config, "--json"],
                     [self.PSERVER, "inspect", state, "--verify"])]
            self.assertIn(b" 0.", b"".join(said))
            said[-1] = re.sub(rb" +\d+ s ", b"", said[-1])
            found.append((lines, drawn, run["run"], said))
        self.assertEqual(found[0], found[1])


class Names(Environment):
    NAMES = [b"with space\nand line", b"-dash\xff\xfebytes", b"'quote\"back\\slash \x1b[31mred",
             "gr\u00fc\u00dfe \u4e16".encode()]

    def test_every_path_may_have_any_name(self) -> None:
        folder = os.fsencode(self.folder)
        for name in self.NAMES:
            with self.subTest(name):
                where = os.path.join(folder, b"in " + name)
                os.mkdir(where)
                self.everything(where, name)

    def everything(self, where: bytes, name: bytes) -> None:
        """All commands, in a folder of that name, with relative names that begin like it."""
        in_it = {"cwd": where}
        shutil.copy(self.config, os.path.join(where, name))
        with open(os.path.join(where, name + b".txt"), "w", encoding="ascii") as file:
            file.write(words(6000, 1))
        data, model, out, two = name + b".txt", name + b".safetensors", name + b".out", name + b".two"
        keys = name + b".keys"
        train = [self.WORKER, "train", "--config", name, "--data", data, "--val", data, "--out", out, "--threads", "1",
                 "--steps", "4", "--export", model]
        self.ends(0, train, **in_it)
        self.assertIn(b"run.json", os.listdir(os.path.join(where, out)))
        with open(os.path.join(where, out, b"run.json"), encoding="utf-8") as file:
            json.load(file)
        for command in (["eval", "--model", model, "--data", data, "--windows", "1"],
                        ["score", "--model", model, "--text", data], ["flops", "--config", name],
                        ["generate", "--model", model, "--prompt", name, "--tokens", "2"],
                        ["export", "--from", out + b"/state", "--out", name + b".again"],
                        ["train", "--repeat", out + b"/run.json", "--data", data, "--val", data, "--out", name + b".o2"]):
            self.ends(0, [self.WORKER, *command], **in_it)
        self.ends(0, [self.PSERVER, "inspect", b"./" + out + b"/state", "--verify"], **in_it)
        self.ends(0, [self.PSERVER, "runs", b"./" + out + b"/state"], **in_it)
        self.ends(0, [self.PSERVER, "reshard", "--from", out + b"/state", "--to", two, "--shards", "2"], **in_it)
        self.ends(0, [self.PSERVER, "keygen", "--out", keys], **in_it)
        for command in ([self.WORKER, "eval", "--model", name + b"-none", "--data", data],
                        [self.WORKER, "train", "--config", name + b"-none", "--data", data, "--out", "o"],
                        [self.WORKER, "train", "--config", name, "--data", name + b"-none", "--out", "o"],
                        [self.WORKER, "train", "--repeat", name + b"-none"],
                        [self.WORKER, "export", "--from", name + b"-none", "--out", "m"],
                        [self.PSERVER, "inspect", b"./" + name + b"-none"],
                        [self.PSERVER, "runs", b"./" + name + b"-none"],
                        [self.PSERVER, "reshard", "--from", name + b"-none", "--to", "t", "--shards", "2"],
                        [self.PSERVER, "serve", "--listen", "tcp://127.0.0.1:0", "--shard", "0/1", "--data", "s",
                         "--keys", name + b"-none"]):
            said = self.ends(2, command, **in_it).stderr
            self.assertEqual(len(said.splitlines()), 1, said)
            self.assertNotIn(b"\x1b", said)

    def test_log_lines_are_lines(self) -> None:
        where = os.path.join(os.fsencode(self.folder), b"a\nb")
        said = self.ends(0, [self.WORKER, "train", "--config", self.config, "--data", self.data, "--out", where,
                             "--val", self.data, "--steps", "4", "--threads", "1"]).stderr.decode()
        self.assertIn("--val holds what is trained on", said)
        os.rename(self.data, os.fsencode(self.folder) + b"/x\ny.txt")
        said = self.ends(0, [self.WORKER, "train", "--config", self.config, "--data",
                             os.fsencode(self.folder) + b"/x\ny.txt", "--out", self.path("o"), "--val",
                             os.fsencode(self.folder) + b"/x\ny.txt", "--steps", "4", "--threads", "1"]).stderr.decode()
        self.assertIn("x y.txt", said)
        for line in said.splitlines():
            self.assertRegex(line, r"^(\d{4}-\d\d-\d\dT|step \d)")


class Terminals(Environment):
    def on_terminal(self, command: list[str], columns: int) -> str:
        """What a terminal of so many columns is sent; 0: it does not say."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its)
        os.close(its)
        sent = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:
                break
            if not piece:
                break
            sent += piece
        os.close(ours)
        self.assertEqual(process.wait(DEADLINE), 0, sent)
        return sent.decode()

    def progress(self, sent: str) -> list[str]:
        """The bars that were drawn."""
        return [line.split("\x1b[K")[0] for line in sent.split("\r") if "\x1b[K" in line]

    def test_width(self) -> None:
        commands = [self.training("--log", "off", steps=60),
                    [self.PSERVER, "reshard", "--from", self.path("out/state"), "--to", self.path("two"), "--shards", "2"]]
        for columns in (20, 8, 1, 80, 200, 0):
            for command in commands:
                for name in ("out", "two"):
                    if command[1] == "train" or name == "two":
                        shutil.rmtree(self.path(name), ignore_errors=True)
                bars = self.progress(self.on_terminal(command, columns))
                self.assertGreater(len(bars), 0)
                # The result of a training is shown whole.
                result = [bars.pop()] if command[1] == "train" else []
                if columns > 0:
                    self.assertLess(max(map(len, bars), default=0), columns)
                bars += result
                if result:
                    self.assertRegex(bars[-1], r"step 60/60  loss \d+\.\d{4}")
                if columns == 20:
                    self.assertRegex(bars[-1], r"^(step 60/60|resharding: 100%)")
                if columns in (200, 0):
                    self.assertIn("#" * 20, bars[-1])

    def test_no_terminal(self) -> None:
        said = self.ends(0, self.training("--log", "off", steps=60), stdin=subprocess.DEVNULL,
                         start_new_session=True).stderr.decode()
        self.assertNotIn("\r", said)
        self.assertNotIn("\x1b", said)
        self.assertIn("step 60/60", said)


if __name__ == "__main__":
    unittest.main()
