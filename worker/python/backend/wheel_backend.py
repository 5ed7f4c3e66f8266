"""Makes a wheel of the package `memoryformer` for `pip install ./worker/python` (PEP 517): builds the module _native
with cmake, in a build folder of its own, and packs it with the package's files. Standard library only and no
network, so that an installation needs nothing but the distribution's packages.

Settings (pip's --config-settings=NAME=VALUE):
    build-folder: where cmake builds, from the repository on. Without it build/wheel-ABI: as deep as the folders of the
        presets, so that a compiler cache that knows one of them serves this one, too. A folder that is given and is
        configured already, such as build/release, is built as it is: what was compiled there is not compiled again.
    cmake-options: more options for cmake, such as -DNAME=VALUE.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from typing import Any, Mapping, NoReturn, Optional

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REPOSITORY = os.path.dirname(os.path.dirname(PROJECT))
NAME = "memoryformer"
_INSTALL = "deploy/install_packages.sh build python installs it on Debian and Ubuntu"
_LINES_OF_ERROR = 30
_BUILDERS = ("c++", "g++", "clang++")

Settings = Optional[Mapping[str, Any]]


def _fail(message: str) -> NoReturn:
    """Ends the process that pip has started for the backend: its last line is the error, without a traceback."""
    raise SystemExit(f"{NAME}: {message}")


# The hooks of PEP 517 and PEP 660.


def build_wheel(wheel_directory: str, config_settings: Settings = None,
                metadata_directory: str | None = None) -> str:
    """Builds the module and writes the wheel; its file name."""
    del metadata_directory  # made again: it is a page of text
    version = _version()
    module = _build(config_settings)
    contents = dict(_package_files())
    contents[f"{NAME}/{os.path.basename(module)}"] = module
    name = f"{NAME}-{version}-{_tag()}.whl"
    _write_wheel(os.path.join(wheel_directory, name), f"{NAME}-{version}.dist-info", contents, _metadata(version))
    return name


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    """What the wheel says of itself, without building it; the folder's name."""
    del config_settings
    version = _version()
    folder = f"{NAME}-{version}.dist-info"
    os.makedirs(os.path.join(metadata_directory, folder), exist_ok=True)
    for name, text in _metadata(version).items():
        with open(os.path.join(metadata_directory, folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return folder


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> NoReturn:
    """Refused: the module's sources are the whole repository."""
    del sdist_directory, config_settings
    _fail("there is no source distribution; build a wheel from a clone of the repository: pip wheel ./worker/python")


def build_editable(wheel_directory: str, config_settings: Settings = None,
                   metadata_directory: str | None = None) -> NoReturn:
    """Refused: the module is built elsewhere than the package's files lie."""
    del wheel_directory, config_settings, metadata_directory
    _fail("there are no editable installations; to work on the package: "
          "cmake --build --preset release --target mf_python, and PYTHONPATH=build/release/python")


# What is in it.


def _version() -> str:
    """That of the whole project."""
    path = os.path.join(REPOSITORY, "CMakeLists.txt")
    try:
        with open(path, encoding="utf-8") as file:
            found = re.search(rf"^project\({NAME} VERSION ([0-9.]+)", file.read(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        _fail(f"{PROJECT} is no part of the repository; install from a clone of it, with pip 21.3 or later")
    return found[1]


def _tag() -> str:
    """This interpreter, its ABI and the platform: the module is compiled for no others, and loads libraries of the
    distribution, which is why it is no manylinux wheel."""
    if sys.implementation.name != "cpython":
        _fail(f"the package is for CPython, this is {sys.implementation.name}")
    abi = "cp{}{}{}".format(*sys.version_info[:2], getattr(sys, "abiflags", ""))
    return "-".join((abi.rstrip("dmt"), abi, re.sub(r"[-.]", "_", sysconfig.get_platform())))


def _package_files() -> list[tuple[str, str]]:
    """(name in the wheel, path)."""
    folder = os.path.join(PROJECT, NAME)
    return [(f"{NAME}/{name}", os.path.join(folder, name)) for name in sorted(os.listdir(folder))
            if name.endswith((".py", ".pyi")) or name == "py.typed"]


def _metadata(version: str) -> dict[str, str]:
    """The files of the folder dist-info, but RECORD.

    torch and NumPy are needed and yet not listed: pip would download another torch where it does not recognise the
    one that is there (Debian's calls itself 1.13.0a0, a pre-release), or none could be downloaded; and which build
    of torch computes is the user's choice, as all processes of a run have to have the same.
    """
    with open(os.path.join(REPOSITORY, "LICENSE"), encoding="utf-8") as file:
        license_text = file.read()
    return {
        "METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n"
                    "Summary: PyTorch models whose parameters and tables are on MemoryFormer's servers\n"
                    "License: Apache-2.0\nLicense-File: LICENSE\nRequires-Python: >=3.9\n"
                    "Classifier: Programming Language :: Python :: 3\nClassifier: Operating System :: POSIX :: Linux\n"
                    "Classifier: Typing :: Typed\nDescription-Content-Type: text/plain\n\n"
                    "Needs torch and NumPy, of the distribution or of your choice; they are not installed with it.\n",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: {NAME} {version}\nRoot-Is-Purelib: false\nTag: {_tag()}\n",
        "LICENSE": license_text,
    }


def _write_wheel(path: str, dist_info: str, files: Mapping[str, str], metadata: Mapping[str, str]) -> None:
    """The same bytes for the same contents, whenever it is written. It gets its name when it is whole."""
    record = []
    partial = path + ".partial"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as wheel:

        def add(name: str, data: bytes) -> None:
            entry = zipfile.ZipInfo(name)  # of 1980, the beginning of the format's time
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            wheel.writestr(entry, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}\n")

        for name, source in files.items():
            with open(source, "rb") as file:
                add(name, file.read())
        for name, text in metadata.items():
            add(f"{dist_info}/{name}", text.encode())
        add(f"{dist_info}/RECORD", "".join([*record, f"{dist_info}/RECORD,,\n"]).encode())
    os.replace(partial, path)


# The build.


def _build(config_settings: Settings) -> str:
    """The path of the module, built as it stands."""
    settings = dict(config_settings or {})
    given, options = settings.pop("build-folder", None), settings.pop("cmake-options", None)
    if settings:
        _fail(f"unknown setting {', '.join(sorted(settings))}; there are build-folder and cmake-options")
    folder = os.path.join(REPOSITORY, given or os.path.join("build", f"wheel-{_tag().split('-')[1]}"))
    _check_tools()
    # Not the path in a virtual environment, which may be another one the next time: all would be configured anew.
    python = os.path.realpath(sys.executable)
    if not given or options or not os.path.exists(os.path.join(folder, "CMakeCache.txt")):
        _run("cmake", "-S", REPOSITORY, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DMF_TESTS=OFF",
             f"-DPython3_EXECUTABLE={python}", *shlex.split(options or ""))
    if _cached(folder, "pybind11_DIR").endswith("NOTFOUND"):
        _fail(f"pybind11 (pybind11-dev) is missing, or was when {folder} was configured; {_INSTALL}")
    parallel = [] if "CMAKE_BUILD_PARALLEL_LEVEL" in os.environ else ["--parallel", str(len(os.sched_getaffinity(0)))]
    _run("cmake", "--build", folder, "--target", "mf_python", *parallel)
    module = os.path.join(folder, "python", NAME, "_native" + sysconfig.get_config_var("EXT_SUFFIX"))
    if not os.path.exists(module):
        _fail(f"{folder} is configured for another Python than {python}: it has no {os.path.basename(module)}")
    return module


def _check_tools() -> None:
    """An error that names what is missing, and how to get it."""
    for tool, package in (("cmake", "cmake"), ("ninja", "ninja-build")):
        if shutil.which(tool) is None:
            _fail(f"{tool} ({package}) is missing; {_INSTALL}")
    if "CXX" not in os.environ and not any(shutil.which(name) for name in _BUILDERS):
        _fail(f"a C++ compiler (g++) is missing; {_INSTALL}")
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        _fail(f"Python's headers (python3-dev) are missing: there is no {header}; {_INSTALL}")


def _run(*command: str) -> None:
    """Shows what the command says as it comes (pip -v); the error ends with its last lines."""
    print("+", shlex.join(command), flush=True)
    last: collections.deque[str] = collections.deque(maxlen=_LINES_OF_ERROR)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                          text=True, errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line)
            sys.stdout.write(line)
            sys.stdout.flush()
    if process.returncode != 0:
        _fail(f"{shlex.join(command[:2])} has failed ({_INSTALL.replace('installs it', 'installs what is needed')}); "
              f"its last lines:\n{''.join(last)}")


def _cached(folder: str, variable: str) -> str:
    """A variable of cmake's cache; NOTFOUND if it is not there."""
    with open(os.path.join(folder, "CMakeCache.txt"), encoding="utf-8") as file:
        found = re.search(rf"^{variable}:\w+=(.*)$", file.read(), re.MULTILINE)
    return "NOTFOUND" if found is None else found[1]
