#!/usr/bin/python3
"""What "clean" means for the pages: links, paths and names in them exist, sections that the code cites are there,
the README is a page of 150 lines and prose has lines that one can read. One line per fault; exits 1 if there is any.

    tests/pages.py
"""

import glob
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
FOLDERS = ("common", "pserver", "worker", "tests", "deploy", "docs", "cmake")
SOURCES = (".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".capnp", ".cmake", ".txt", ".yml", ".toml")
README_LINES_MAX = 150
COLUMNS_MAX = 110
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./*-]+")
NAME = re.compile(r"[A-Z]\w*[a-z]\w*(?:::\w+)*")  # a type, a function, or a member of a type
COMMENT = re.compile(r"^\s*(?://|#(?!define)).*$|\s//.*$", re.MULTILINE)
CITATION = re.compile(r"DESIGN (?:section )?((?:\d+(?:\.\d+)?(?:, | and |-)?)+)")


class Names:
    """What the code has: words outside of comments, and by type the words of the files that declare it."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.words: set[str] = set()
        self.members: dict[str, set[str]] = {}
        for text in texts.values():
            code = COMMENT.sub("", text)
            found = set(re.findall(r"\w+", code))
            self.words |= found
            for type_name in re.findall(r"\b(?:class|struct) (\w+)", code):
                self.members.setdefault(type_name, set()).update(found)

    def __contains__(self, name: str) -> bool:
        first, *rest = name.split("::")
        return first in self.words and all(member in self.members.get(first, set()) for member in rest)


def read(path: str) -> str:
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def pages() -> list[str]:
    return [os.path.relpath(page, ROOT) for pattern in ("*.md", "docs/*.md")
            for page in sorted(glob.glob(os.path.join(ROOT, pattern)))]


def sources() -> list[str]:
    """Without what git ignores, where git knows this folder; else all."""
    listed = None
    if shutil.which("git") is not None:
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *FOLDERS, "CMakeLists.txt"], cwd=ROOT,
                                capture_output=True, text=True, check=False)
    if listed is not None and listed.returncode == 0 and listed.stdout:
        found = listed.stdout.splitlines()
    else:
        found = [os.path.relpath(os.path.join(folder, name), ROOT) for top in FOLDERS
                 for folder, _, names in os.walk(os.path.join(ROOT, top)) for name in names]
    return [path for path in found if path.endswith(SOURCES) and os.path.isfile(os.path.join(ROOT, path))]


def anchors(page: str) -> set[str]:
    """As GitHub makes them of headlines."""
    headlines = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", headline.lower()).strip().replace(" ", "-") for headline in headlines}


def link_faults(page: str, line: str) -> list[str]:
    faults = []
    for target in LINK.findall(line):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        where = os.path.normpath(os.path.join(os.path.dirname(page), file)) if file else page
        if not os.path.exists(os.path.join(ROOT, where)):
            faults.append(f"there is no {target}")
        elif anchor and anchor not in anchors(where):
            faults.append(f"there is no headline for {target}")
    return faults


def span_faults(line: str, names: "Names", stems: set[str]) -> list[str]:
    faults = []
    for span in SPAN.findall(line):
        if PATH.fullmatch(span) and not glob.glob(os.path.join(ROOT, span)) and not glob.glob(
                os.path.join(ROOT, span) + ".*"):
            faults.append(f"there is no {span}")
        if NAME.fullmatch(span) and span not in names:
            faults.append(f"the code has no {span}")
        # tests/emulated_gpu puts its name before those of tests/gpu.
        if re.fullmatch(r"\w+_test", span) and not stems & {span, span.removeprefix("emulated_gpu_")}:
            faults.append(f"there is no test {span}")
    return faults


def prose_faults(line: str) -> list[str]:
    faults = []
    fixed = line.startswith(("|", "    ", "#", "<!--", "!["))
    if not fixed and len(line) > COLUMNS_MAX and " " in line.strip().lstrip("-*0123456789. "):
        faults.append(f"{len(line)} columns, at most {COLUMNS_MAX}")
    if re.search(r"\b[Cc]an not\b", line):
        faults.append("'cannot': write 'cannot'")
    return faults


def page_faults(page: str, names: "Names", stems: set[str]) -> list[str]:
    faults = []
    for number, line in enumerate(read(page).splitlines(), 1):
        found = link_faults(page, line) + span_faults(line, names, stems) + prose_faults(line)
        faults += [f"{page}:{number}: {fault}" for fault in found]
    return faults


def citation_faults(path: str, text: str, sections: set[str]) -> list[str]:
    cited = {number for found in CITATION.findall(text) for number in re.findall(r"\d+(?:\.\d+)?", found)}
    return [f"{path}: cites DESIGN {number}, docs/DESIGN.md has no such section" for number in sorted(cited - sections)]


def main() -> int:
    texts = {path: read(path) for path in sources()}
    names = Names(texts)
    stems = {os.path.splitext(os.path.basename(path))[0] for path in texts}
    stems |= {word for path, text in texts.items() if path.endswith(".cmake") for word in re.findall(r"\w+", text)}
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?) ", read("docs/DESIGN.md"), re.MULTILINE))
    faults = []
    for page in pages():
        faults += page_faults(page, names, stems)
    for path, text in {**texts, **{page: read(page) for page in pages()}}.items():
        faults += citation_faults(path, text, sections)
    lines = len(read("README.md").splitlines())
    if lines > README_LINES_MAX:
        faults.append(f"README.md: {lines} lines, at most {README_LINES_MAX}; move something to docs/")
    print("".join(f"pages: {fault}\n" for fault in faults) + f"pages: {len(faults) or 'no'} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
