"""Servers behind links of limited rate: one network namespace for each, joined to the benchmark's own by a
veth pair with a token bucket at both ends. Needs no root where user namespaces are allowed; the namespaces
end with the processes in them."""

import os
import subprocess
import sys

INSIDE = "MF_BENCH_NAMESPACE"
# Bytes that may pass at once after a pause: small beside a message, so that the rate is the rate.
BURST = "128kb"
# Of what passes a link 1448 in 1514 bytes are a message's: Ethernet's, IP's and TCP's headers are the rest.
PAYLOAD = 1448 / 1514


def enter() -> None:
    """Starts this program again in a network namespace of its own, where it may make links."""
    if os.environ.get(INSIDE) != "1":
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--map-root-user", "--net", sys.executable, "-B", *sys.argv])
    run("ip", "link", "set", "lo", "up")


def run(*command: str) -> None:
    subprocess.run(command, check=True)


class Links:
    """`count` places for servers, each at the other end of a link; a context manager. The near ends have no
    limit in common: a program on this side reaches every server at that server's rate."""

    def __init__(self, count: int) -> None:
        self.sleepers: list[subprocess.Popen] = []
        self.hosts: list[str] = []
        try:
            for number in range(count):
                self._join(number)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Links":
        return self

    def __exit__(self, *unused: object) -> None:
        for sleeper in self.sleepers:
            sleeper.kill()
            sleeper.wait()

    def _join(self, number: int) -> None:
        # Says so once it is in its namespace.
        sleeper = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo there; exec sleep infinity"],
                                   stdout=subprocess.PIPE)
        self.sleepers.append(sleeper)
        sleeper.stdout.readline()
        near, subnet = f"near{number}", f"10.77.{number}"
        run("ip", "link", "add", near, "type", "veth", "peer", "name", "far", "netns", str(sleeper.pid))
        run("ip", "address", "add", f"{subnet}.1/24", "dev", near)
        run("ip", "link", "set", near, "up")
        far = self.prefix(number)
        run(*far, "ip", "address", "add", f"{subnet}.2/24", "dev", "far")
        run(*far, "ip", "link", "set", "lo", "up")
        run(*far, "ip", "link", "set", "far", "up")
        self.hosts.append(f"{subnet}.2")

    def prefix(self, number: int) -> list[str]:
        """What makes a command run at the other end of a link; its process keeps its id."""
        return ["nsenter", "--target", str(self.sleepers[number].pid), "--net"]

    def limit(self, bits: float) -> None:
        """Bits per second of every link, each way; 0: as fast as it gets."""
        for number in range(len(self.hosts)):
            for place, device in (([], f"near{number}"), (self.prefix(number), "far")):
                if bits == 0:
                    subprocess.run([*place, "tc", "qdisc", "del", "dev", device, "root"], check=False,
                                   stderr=subprocess.DEVNULL)
                else:
                    run(*place, "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate",
                        f"{bits / 1e6:.3f}mbit", "burst", BURST, "latency", "50ms")
