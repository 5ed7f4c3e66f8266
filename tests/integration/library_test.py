"""Goal: another program uses the servers through what `cmake --install` installs, and nothing else: the example
project is built as a project of its own (with CMake, and with pkg-config), only headers for users are there, and
it trains its own model through two servers, one of which is killed and started again, with the tables of one
server, bit by bit. Usage: library_test.py PATH_OF_WORKER PATH_OF_PSERVER BUILD_FOLDER"""

import glob
import os
import re
import shlex
import subprocess
import sys
import time
import unittest

from cluster_case import DEADLINE, ClusterCase

BUILD = sys.argv.pop(3)
ClusterCase.PSERVER = sys.argv.pop(2)
ClusterCase.WORKER = sys.argv.pop(1)
EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "..", "worker", "examples", "hashed_regression")
STEPS = "400"


class Library(ClusterCase):
    def run_command(self, *command: str, **more) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, **more)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def setUp(self) -> None:
        super().setUp()
        self.prefix = os.path.join(self.folder, "prefix")
        self.run_command("cmake", "--install", BUILD, "--prefix", self.prefix)

    def build(self) -> str:
        """The example's program, built away from this repository."""
        source, build = os.path.join(self.folder, "source"), os.path.join(self.folder, "build")
        self.run_command("cp", "-r", EXAMPLE, source)
        self.run_command("cmake", "-S", source, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                         f"-DCMAKE_PREFIX_PATH={self.prefix}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
        self.run_command("cmake", "--build", build)
        return os.path.join(build, "hashed_regression")

    def tables(self, process: subprocess.Popen, name: str) -> str:
        said, _ = process.communicate(timeout=DEADLINE)
        self.assertEqual(process.returncode, 0, said + self.log(name))
        return re.search(r"^tables [0-9a-f]{16}$", said, re.MULTILINE)[0]

    def finished(self, shard: int) -> float:
        return self.metric(shard, "mf_step")

    def test_an_other_program_on_two_servers(self) -> None:
        program = self.build()
        _, alone = self.serve(0, 1)
        expected = self.tables(self.start([program, STEPS, alone], "one.log"), "one")

        servers = [self.serve(shard, 2) for shard in range(2)]
        addresses = [address for _, address in servers]
        process = self.start([program, STEPS, *addresses], "two.log")
        end = time.monotonic() + DEADLINE
        while not glob.glob(os.path.join(self.folder, "state-2", "run-*", "shard-1-of-2", "step-*")):
            self.assertLess(time.monotonic(), end, self.log("two"))
            time.sleep(0.002)
        servers[1][0].kill()
        servers[1][0].wait()
        self.assertLess(self.finished(0), float(STEPS), "it was killed too late to matter")
        self.serve(1, 2, addresses[1], state="state-2")
        self.assertEqual(self.tables(process, "two"), expected)
        self.assertRegex(self.log("two"), r"the run goes back to step [1-9]")

        # A second process finds the run finished, and the model the same.
        again = self.start([program, STEPS, *addresses], "again.log")
        self.assertEqual(self.tables(again, "again"), expected)

    def test_what_is_installed(self) -> None:
        includes = os.path.join(self.prefix, "include", "memoryformer")
        headers = sorted(os.path.relpath(path, includes)
                         for path in glob.glob(os.path.join(includes, "**", "*.h"), recursive=True))
        self.assertIn("memoryformer.h", headers)
        for inner in ("client", "messages", "transport", "board", "work_loop", "membership", "config"):
            self.assertFalse([name for name in headers if os.path.basename(name) == f"{inner}.h"])
        for name in ("worker", "pserver"):
            self.assertIn("usage", self.run_command(os.path.join(self.prefix, "bin", name), "--help").lower())
        # Every header that is there is reached from the one that users include, and compiles alone.
        (pkgconfig,) = glob.glob(os.path.join(self.prefix, "lib*", "**", "memoryformer.pc"), recursive=True)
        environment = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(pkgconfig))
        flags = shlex.split(self.run_command("pkg-config", "--cflags", "memoryformer", env=environment))
        reached = self.run_command("c++", *flags, "-M", "-x", "c++", "-include", "memoryformer/memoryformer.h",
                                   "/dev/null")
        for name in headers:
            self.assertIn(os.path.join(includes, name), os.path.normpath(reached.replace("\\\n", " ")))
            self.run_command("c++", *flags, "-fsyntax-only", "-x", "c++", os.path.join(includes, name))
        libraries = shlex.split(self.run_command("pkg-config", "--cflags", "--libs", "memoryformer", env=environment))
        program = os.path.join(self.folder, "by-pkg-config")
        self.run_command("c++", os.path.join(EXAMPLE, "hashed_regression.cpp"), *libraries, "-o", program)
        self.assertTrue(os.path.exists(program))


if __name__ == "__main__":
    unittest.main()
