#!/usr/bin/python3
"""What is done with a fuzz target's inputs after fuzzing.

    inputs.py keep PROGRAM OUT FOLDER...        chooses inputs that together reach all edges, within 40 KB
    inputs.py coverage PROGRAM TARGET.cpp FOLDER...   prints the edges reached in the files that the target is for

PROGRAM is one of libFuzzer's. The files that a target is for are those that it includes of common/, pserver/ and
worker/, with the sources beside these headers.
"""

import collections
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

BYTES_MAX = 40_000  # of one target's kept inputs
FUNCTION = re.compile(r"^(?:UN)?COVERED_FUNC: hits: \d+ edges: (\d+)/(\d+) .* (\S+?):\d+")


def edges_of(program: str, folders: list[str]) -> list[tuple[str, int, frozenset[str]]]:
    """Path, size and reached edges of every input."""
    with tempfile.TemporaryDirectory() as scratch:
        control = os.path.join(scratch, "control")
        merged = os.path.join(scratch, "merged")
        os.mkdir(merged)
        subprocess.run([program, "-merge=1", f"-merge_control_file={control}", merged, *folders],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(control, encoding="utf-8") as file:
            lines = file.read().splitlines()
    paths = lines[2:2 + int(lines[0])]
    edges: dict[int, frozenset[str]] = collections.defaultdict(frozenset)
    for line in lines[2 + len(paths):]:
        kind, index, *values = line.split()
        if kind == "COV":
            edges[int(index)] = frozenset(values)
    return [(path, os.path.getsize(path), edges[index]) for index, path in enumerate(paths)]


def keep(program: str, out: str, folders: list[str]) -> None:
    """Greedy: the most new edges for a byte come first."""
    left = edges_of(program, folders)
    everything = frozenset().union(*(edges for _, _, edges in left))
    reached: set[str] = set()
    chosen: dict[str, bytes] = {}
    room = BYTES_MAX
    while left:
        left = [entry for entry in left if entry[1] <= room and not entry[2] <= reached]
        if not left:
            break
        # The head of each input counts as some bytes, too: many tiny files are no gain.
        path, size, edges = max(left, key=lambda entry: len(entry[2] - reached) / (entry[1] + 32))
        with open(path, "rb") as file:
            content = file.read()
        chosen[hashlib.sha256(content).hexdigest()[:16]] = content
        reached |= edges
        room -= size
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    for name, content in chosen.items():
        with open(os.path.join(out, name), "wb") as file:
            file.write(content)
    print(f"{out}: {len(chosen)} inputs of {BYTES_MAX - room} bytes reach {len(reached)} of {len(everything)} edges")


def coverage(program: str, target: str, folders: list[str]) -> None:
    with open(target, encoding="utf-8") as file:
        headers = re.findall(r'#include "((?:common|pserver|worker)/[^"]+)\.h"', file.read())
    if not headers:  # whole servers: all of the program is what it is for
        headers = ["pserver/shard/shard", "pserver/shard/shard_requests", "pserver/shard/run_host",
                   "pserver/coordinator/coordinator", "pserver/coordinator/coordinator_service", "common/net/messages"]
    names = {"ASAN_SYMBOLIZER_PATH": shutil.which("llvm-symbolizer-19") or shutil.which("llvm-symbolizer") or ""}
    run = subprocess.run([program, "-runs=0", "-print_coverage=1", *folders], check=True, text=True,
                         env={**os.environ, **names}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for line in run.stderr.splitlines():
        found = FUNCTION.match(line)
        if found is None:
            continue
        for header in headers:
            if found[3].endswith((f"/{header}.h", f"/{header}.cpp")):
                counts[header][0] += int(found[1])
                counts[header][1] += int(found[2])
    if not counts:
        sys.exit("inputs.py: no function has a name; is llvm-symbolizer-19 there (package llvm-19)?")
    for header, (reached, all_edges) in sorted(counts.items()):
        print(f"{os.path.basename(target)[:-4]:18} {header:40} {reached:5} of {all_edges:5} edges, "
              f"{100 * reached / all_edges:.0f}%")


def main() -> None:
    if len(sys.argv) < 5 or sys.argv[1] not in ("keep", "coverage"):
        sys.exit(__doc__)
    (keep if sys.argv[1] == "keep" else coverage)(sys.argv[2], sys.argv[3], sys.argv[4:])


if __name__ == "__main__":
    main()
