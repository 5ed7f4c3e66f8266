#!/usr/bin/env python3
"""Clang's warnings, of locks above all, for every file of the build, and clang-tidy with .clang-tidy for those of
common/, pserver/ and worker/. No code is made: that is the longest part of a build, and says nothing more.

    tests/tidy.py [--third | FILE...]

Flags and generated headers are those of the preset `clang`; what they need is built first. Most of the time goes
into the headers of libraries, so files that have the same flags, and no names of their own that others use, are
looked at as one file that includes them all. Where that finds anything, halves of them are looked at, down to single
files, and only what is found in these counts.

--third: of the files that no commit of the last 12 hours changed only a third, another one each day.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATABASE = ROOT / "build/clang/compile_commands.json"
TIDY = "clang-tidy-19"
TESTS = ROOT / "tests"
HEADERS = ("mf_library_headers", "mf_test_headers", "mf_command_headers", "mf_schema")  # precompiled, and generated
# A file for Highway includes itself once per instruction set.
ALONE = "HWY_TARGET_INCLUDE"
TOGETHER = 24  # files, at most
# What a file may define for itself: functions, constants, types, macros, tests.
OWN_NAMES = [re.compile(pattern, re.M) for pattern in (
    r"^[A-Za-z_][^\n(;=]*?[\s&*](\w+)\(",
    r"^(?:static |inline )*const(?:expr|init)?\b[^\n=({;]*?(\w+)(?:\[\w*\])*\s*[={;]",
    r"^(?:struct|class|enum class|enum|union|using)\s+(\w+)", r"\b(g_\w+)", r"^#define (\w+)", r"^TEST\w*\((\w+, \w+)\)")]


def flags_of(entry: dict[str, str]) -> tuple[str, ...]:
    """A compile command without output and source."""
    words = shlex.split(entry["command"])
    words = words[words.index(next(word for word in words if "clang++" in word)):]  # behind a compiler cache
    return tuple(words[:words.index("-o")])


def groups_of(entries: list[dict[str, str]]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Flags and the sources that are looked at together, the largest group first."""
    headers = "".join(path.read_text(encoding="utf-8") for folder in ("common", "pserver", "worker")
                      for path in (ROOT / folder).rglob("*.h"))
    types = set(re.findall(r"^(?:struct|class|enum class|using) (\w+)", headers, re.M))
    known = set(re.findall(r"\w+", headers))
    groups: dict[tuple[str, ...], list[tuple[list[str], set[str], set[str]]]] = {}
    for entry in sorted(entries, key=lambda entry: entry["file"]):
        source, flags = entry["file"], flags_of(entry)
        text = pathlib.Path(source).read_text(encoding="utf-8")
        own = {name for pattern in OWN_NAMES for name in pattern.findall(text)}
        used = set(re.findall(r"\w+", text)) - known | own
        alone = ALONE in text or own & types
        key = source if alone else str(pathlib.Path(source).is_relative_to(TESTS))
        alike = groups.setdefault((key, *flags), [])
        for sources, names, words in alike:
            if len(sources) < TOGETHER and not names & used and not words & own:
                sources.append(source)
                names |= own
                words |= used
                break
        else:
            alike.append(([source], own, used))
    found = [(key[1:], sources) for key, alike in groups.items() for sources, *_ in alike]
    return sorted(found, key=lambda group: -len(group[1]))


def check(source: str, flags: tuple[str, ...], is_test: bool) -> tuple[bool, str]:
    """Whether nothing was found in a source, and what was printed."""
    tidy = [TIDY, "--quiet", f"--config-file={ROOT}/.clang-tidy", source, "--", *flags[1:]]
    run = subprocess.run([*flags, "-fsyntax-only", source] if is_test else tidy,
                         capture_output=True, text=True, check=False)
    return run.returncode == 0, run.stdout + (run.stderr if is_test else "")


def look_at(flags: tuple[str, ...], sources: list[str]) -> tuple[int, str]:
    """How many of the sources are faulty, and what was found in them."""
    is_test = pathlib.Path(sources[0]).is_relative_to(TESTS)
    if len(sources) == 1:
        clean, text = check(sources[0], flags, is_test)
        return (0, "") if clean else (1, text)
    with tempfile.NamedTemporaryFile("w", suffix=".cpp", prefix="tidy-") as together:
        together.writelines(f'#include "{source}"\n' for source in sources)
        together.flush()
        if check(together.name, flags, is_test)[0]:
            return 0, ""
    middle = len(sources) // 2
    halves = [look_at(flags, half) for half in (sources[:middle], sources[middle:])]
    return sum(count for count, _ in halves), "".join(text for _, text in halves)


def of_today(sources: set[str]) -> set[str]:
    """Those that were changed in the last 12 hours, and a third of the others by the number of the day."""
    log = subprocess.run(["git", "log", "--since=12 hours ago", "--name-only", "--format="], cwd=ROOT,
                         capture_output=True, text=True, check=False)  # in a folder without history: a third of all
    changed = {str(ROOT / name) for name in log.stdout.splitlines()}
    day = int(time.time()) // 86400
    return {source for source in sources
            if source in changed or zlib.crc32(os.path.relpath(source, ROOT).encode()) % 3 == day % 3}


def main() -> int:
    for command in (["cmake", "--preset", "clang"], ["cmake", "--build", "--preset", "clang", "--target", *HEADERS]):
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            print(f"tidy: {' '.join(command)} failed:\n{made.stdout}{made.stderr}", file=sys.stderr)
            return 1
    entries = {entry["file"]: entry for entry in json.loads(DATABASE.read_text(encoding="utf-8"))}
    wanted = {str(pathlib.Path(name).resolve()) for name in sys.argv[1:] if name != "--third"}
    missing = wanted - set(entries)
    wanted = wanted or {source for source in entries if not source.startswith(str(ROOT / "build"))}
    wanted = of_today(wanted) if "--third" in sys.argv else wanted
    entries = {source: entry for source, entry in entries.items() if source in wanted}
    if missing:
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
