"""Small disks for tests: mounted in a namespace of the test's own, so that they end with it, whatever happens."""

import os
import subprocess
import sys
import tempfile

INSIDE = "--inside-a-namespace"


def enter() -> bool:
    """Starts this program again in a namespace where it may mount; without root the user becomes it inside. False where
    nobody here may. Called before the program reads its arguments."""
    if INSIDE in sys.argv:
        sys.argv.remove(INSIDE)
        return True
    with tempfile.TemporaryDirectory() as probe:
        # A changed root has no mount of its own, whose propagation could be changed.
        for more in ([], ["--map-root-user"], ["--propagation", "unchanged"]):
            unshare = ["unshare", "--mount", *more]
            tried = subprocess.run([*unshare, "sh", "-c", f"mount -t tmpfs tmpfs {probe} && umount {probe}"],
                                   capture_output=True, check=False)
            if tried.returncode == 0:
                os.rmdir(probe)
                os.execvp(unshare[0], [*unshare, sys.executable, "-B", *sys.argv, INSIDE])
    return False
