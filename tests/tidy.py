#!/usr/bin/env python3
"""Runs clang-tidy with .clang-tidy over common/, pserver/ and worker/, or over the files named.

    tests/tidy.py [FILE...]

Flags and generated headers are those of the preset `clang`, which is built before. Most of the time goes into the
headers of libraries, so the files of a folder that have the same flags are looked at as one file that includes
them all. Where that finds anything, they are looked at one by one, and only this counts: names of a file's own may
be there twice in a folder.
"""
import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATABASE = ROOT / "build/clang/compile_commands.json"
TIDY = "clang-tidy-19"
BOXES = ("common", "pserver", "worker")
# A file for Highway includes itself once per instruction set.
ALONE = "HWY_TARGET_INCLUDE"


def flags_of(entry: dict[str, str]) -> tuple[str, ...]:
    """The flags of a compile command: without compiler, output and source."""
    words = shlex.split(entry["command"])
    end = words.index("-o")
    return tuple(words[1:end])


def groups_of(entries: list[dict[str, str]]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Flags and the sources that are looked at together, the largest group first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for entry in entries:
        source, flags = entry["file"], flags_of(entry)
        alone = ALONE in pathlib.Path(source).read_text(encoding="utf-8")
        groups.setdefault((source if alone else os.path.dirname(source), *flags), []).append(source)
    largest_first = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [(key[1:], sorted(sources)) for key, sources in largest_first]


def tidy(source: str, flags: tuple[str, ...]) -> tuple[bool, str]:
    """Whether nothing was found in a source, and what was printed."""
    run = subprocess.run([TIDY, "--quiet", f"--config-file={ROOT}/.clang-tidy", source, "--", *flags],
                         capture_output=True, text=True, check=False)
    return run.returncode == 0, run.stdout


def look_at(flags: tuple[str, ...], sources: list[str]) -> tuple[int, str]:
    """How many of the sources are faulty, and what was found in them."""
    if len(sources) > 1:
        with tempfile.NamedTemporaryFile("w", suffix=".cpp", prefix="tidy-") as together:
            together.writelines(f'#include "{source}"\n' for source in sources)
            together.flush()
            if tidy(together.name, flags)[0]:
                return 0, ""
    found = [text for clean, text in (tidy(source, flags) for source in sources) if not clean]
    return len(found), "".join(found)


def main() -> int:
    if not DATABASE.exists():
        print("tidy: no build/clang; run: cmake --preset clang && cmake --build --preset clang", file=sys.stderr)
        return 1
    wanted = {str(pathlib.Path(name).resolve()) for name in sys.argv[1:]}
    entries = {entry["file"]: entry for entry in json.loads(DATABASE.read_text(encoding="utf-8"))
               if entry["file"] in wanted or not wanted and os.path.relpath(entry["file"], ROOT).startswith(BOXES)}
    if missing := wanted - set(entries):
        print(f"tidy: not in the build: {' '.join(sorted(missing))}", file=sys.stderr)
        return 1
    faulty = 0
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for count, text in pool.map(lambda group: look_at(*group), groups_of(list(entries.values()))):
            print(text, end="", flush=True)
            faulty += count
    print(f"tidy: {len(entries)} files, {f'{faulty} faulty' if faulty else 'no fault'}")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
