#!/usr/bin/env python3
"""Shows that the tests of the state machines notice when a check is missing.

Each mutation takes one check out of a copy of the sources, builds the machine's test against it and
expects a test to fail. Exit code 1 if a mutant survives, if its text is not found exactly once, or if
the tests fail without any mutation.
"""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]

# name, source, the text that is replaced, what replaces it
MUTATIONS = [
    ("CommitState::Admit takes any epoch", "commit",
     "  if (epoch != epoch_) {\n", "  if (false) {\n"),
    ("CommitState::Rollback takes older epochs", "commit",
     "  if (epoch <= epoch_) {\n", "  if (epoch == 0) {\n"),
    ("CommitState::Prepare does not wait", "commit",
     "  if (!all_in) {\n", "  if (false) {\n"),
    ("CommitState::Finish takes unprepared steps", "commit",
     "  if (!prepared_) {\n", "  if (false) {\n"),
    ("Board::CheckStep takes any epoch", "board",
     "  if (epoch != epoch_) {\n", "  if (false) {\n"),
    ("Board::Recovered takes any epoch", "board",
     "  if (epoch != epoch_ || phase_ != Phase::kRecover) {\n",
     "  if (phase_ != Phase::kRecover) {\n"),
    ("Board counts a micro-batch twice", "board",
     "  if (!micro_batch.done) {\n", "  {\n"),
    ("Board leases commit to two", "board",
     "  if (single_.has_value()) return false;\n", ""),
]


def command(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)


class Builder:
    """Compiles a machine and its test in a folder of its own."""

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
        target = self.folder / f"{machine}_test.o"
        self.compile(ROOT / "tests" / "unit" / f"{machine}_test.cpp", target, ROOT)
        self.tests[machine] = target

    def test(self, number, machine, old, new):
        """The outcome of the machine's test with `old` replaced; a fault's text if that fails."""
        folder = self.folder / str(number)
        shutil.copytree(ROOT / "pserver", folder / "pserver",
                        ignore=lambda _, names: [n for n in names if not n.startswith(machine)])
        source = folder / "pserver" / f"{machine}.cpp"
        text = source.read_text()
        if old is not None:
            if text.count(old) != 1:
                return None, f"its text stands {text.count(old)} times in {source.name}"
            source.write_text(text.replace(old, new))
        self.compile(source, folder / "machine.o", folder)
        program = folder / "test"
        linked = command(self.compiler[-1], self.tests[machine], folder / "machine.o", "-lgtest",
                         "-lgtest_main", "-pthread", "-o", program)
        if linked.returncode != 0:
            sys.exit(f"mutation: {machine}_test does not link:\n{linked.stderr}")
        try:
            return subprocess.run([str(program), "--gtest_brief=1"], capture_output=True,
                                  timeout=120, check=False).returncode, ""
        except subprocess.TimeoutExpired:
            return 1, ""  # a machine that never comes to an end is noticed, too


def main():
    compiler = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CXX", "c++")
    cases = [(f"{machine} as it is", machine, None, None) for machine in ("board", "commit")]
    cases += MUTATIONS
    faults = 0
    with tempfile.TemporaryDirectory(prefix="mf_mutation_") as folder, \
            concurrent.futures.ThreadPoolExecutor(2) as pool:
        builder = Builder(compiler, pathlib.Path(folder))
        list(pool.map(builder.compile_test, ("board", "commit")))
        outcomes = list(pool.map(lambda i: builder.test(i, *cases[i][1:]), range(len(cases))))
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
