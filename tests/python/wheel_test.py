"""Goal: `pip install ./worker/python` needs no network, and what it installs is whole: in a new virtual environment,
from another folder, a model is trained, and type checkers find the types. What cannot be built says why in one line.
The module is that of the build folder, brought up to date by the backend as pip runs it.
Usage: wheel_test.py BUILD_FOLDER (exits with 77 where there is no torch, or no venv)"""

import base64
import glob
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile

BUILD = os.path.abspath(sys.argv.pop(1))
ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
PROJECT = os.path.join(ROOT, "worker", "python")
PATIENCE = 300  # seconds

TRAINING = """
import torch
import memoryformer as mf

def batch(step, number):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, 8, generator=generator)
    return x, x[:, :1].sign()

losses = []
run = mf.Run(mf.embedded(shards=2), steps=20, optimizer=mf.AdamW(lr=0.05), data=batch, progress=False)
model = torch.nn.Sequential(mf.MemoryLayer(run, "memory", 8, 32, tau=4), torch.nn.Linear(32, 1))
run.share(model)
run.on_step(lambda record: losses.append(record.loss))
for work in run:
    x, y = batch(work.step, work.number)
    work.backward(torch.nn.functional.mse_loss(model(x), y))
assert len(losses) == 20 and losses[-1] < losses[0] / 2, losses
print(mf.__file__)
"""


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        holder = tempfile.TemporaryDirectory(prefix="memoryformer-wheel-")
        cls.addClassCleanup(holder.cleanup)
        cls.folder = holder.name
        cls.venv = os.path.join(cls.folder, "venv")
        # What pip and Python would take from elsewhere.
        cls.environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        cls.environment["PIP_CONFIG_FILE"] = os.devnull
        subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", cls.venv], check=True,
                       timeout=PATIENCE, env=cls.environment)

    def python(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What the environment's Python says, in a folder where nothing of the repository is found by chance."""
        done = subprocess.run([os.path.join(self.venv, "bin", "python"), *arguments], cwd=self.folder, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False,
                              env=dict(self.environment, **environment))
        self.assertEqual(done.returncode, code, done.stdout)
        return done.stdout

    def pip(self, *arguments: str, **more) -> str:
        return self.python("-m", "pip", "--disable-pip-version-check", *arguments, **more)

    def hook(self, call: str, **environment: str) -> str:
        """The error of a backend's function: one line."""
        said = self.python("-c", f"import sys; sys.path.insert(0, {os.path.join(PROJECT, 'backend')!r}); "
                                 f"import wheel_backend; wheel_backend.{call}", code=1, **environment)
        self.assertRegex(said, r"\Amemoryformer: [^\n]*\n\Z")
        return said

    def test_installed_and_used(self) -> None:
        said = self.pip("install", "-v", "--no-index", f"--config-settings=build-folder={BUILD}", PROJECT)
        self.assertIn("+ cmake --build", said)
        path = self.python("-c", TRAINING).strip()
        self.assertTrue(path.startswith(self.venv), path)
        installed = set(os.listdir(os.path.dirname(path)))
        sources = {os.path.basename(name) for name in glob.glob(os.path.join(PROJECT, "memoryformer", "*.py*"))}
        self.assertLessEqual(sources | {"py.typed", "_native.pyi"}, installed)
        with open(os.path.join(ROOT, "CMakeLists.txt"), encoding="utf-8") as file:
            version = re.search(r"^project\(memoryformer VERSION (\S+)", file.read(), re.MULTILINE)[1]
        self.assertIn(f"Version: {version}\n", self.pip("show", "memoryformer"))
        self.pip("uninstall", "-y", "memoryformer")
        self.python("-c", "import memoryformer", code=1)

    def test_the_same_wheel_again(self) -> None:
        wheels = []
        for number in range(2):
            folder = os.path.join(self.folder, f"wheels-{number}")
            self.pip("wheel", "-q", "--no-index", f"--config-settings=build-folder={BUILD}", "-w", folder, PROJECT)
            (name,) = os.listdir(folder)
            self.assertRegex(name, r"^memoryformer-[0-9.]+-cp3\d+-cp3\d+-linux_\w+\.whl$")
            with open(os.path.join(folder, name), "rb") as file:
                wheels.append(file.read())
        self.assertEqual(wheels[0], wheels[1])
        with zipfile.ZipFile(os.path.join(folder, name)) as wheel:
            names = wheel.namelist()
            (record,) = [line for line in names if line.endswith("/RECORD")]
            lines = dict(line.split(",", 1) for line in wheel.read(record).decode().splitlines())
            self.assertEqual(list(lines), names)
            for entry in names:
                data = wheel.read(entry)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
                self.assertEqual(lines[entry], "," if entry == record else f"sha256={digest},{len(data)}")

    def test_what_is_missing_is_named(self) -> None:
        # Folders of links to some programs, in the place of PATH.
        programs = os.path.join(self.folder, "programs")
        os.mkdir(programs)
        for tool, missing in (("cmake", "cmake (cmake) is missing"), ("ninja", "ninja (ninja-build) is missing"),
                              ("c++", "a C++ compiler (g++) is missing")):
            said = self.hook("build_wheel('.')", PATH=programs)
            self.assertIn(missing, said)
            self.assertIn("deploy/install_packages.sh build python", said)
            os.symlink("/bin/false", os.path.join(programs, tool))
        # Now all are there, and fail.
        said = self.python("-c", f"import sys; sys.path.insert(0, {os.path.join(PROJECT, 'backend')!r}); "
                                 "import wheel_backend; wheel_backend.build_wheel('.')", code=1, PATH=programs)
        self.assertIn("memoryformer: cmake -S has failed", said)

    def test_what_there_is_not(self) -> None:
        self.assertIn("there is no source distribution", self.hook("build_sdist('.')"))
        said = self.pip("install", "--no-index", "-e", PROJECT, code=1)
        self.assertIn("memoryformer: there are no editable installations", said)
        said = self.hook("build_wheel('.', {'build-foldr': 'x'})")
        self.assertIn("unknown setting build-foldr; there are build-folder and cmake-options", said)


if __name__ == "__main__":
    for module in ("torch", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            print(f"skipped: this Python has no {module}")
            sys.exit(77)
    unittest.main()
