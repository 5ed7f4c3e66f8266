"""Goal: a server with keys delivers no message of anybody who has none that it lists, counts them, and goes
on; files of keys that protect nothing are refused with one line. Usage: security_test.py PATH_OF_WORKER
PATH_OF_PSERVER"""

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
import unittest

from cluster_case import DEADLINE, ClusterCase

ClusterCase.PSERVER = sys.argv.pop(2)
ClusterCase.WORKER = sys.argv.pop(1)

# ZMTP 3.1 (ZeroMQ RFC 37), by hand: a greeting that asks for no security, then a READY command of a
# DEALER and one message of two frames.
def greeting(mechanism: bytes) -> bytes:
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
PLAIN_HELLO = b"\x04\x13\x05HELLO\x05admin\x06secret"
HUGE_COMMAND = b"\x06" + (1 << 30).to_bytes(8, "big")  # and then its bytes, for as long as one listens
MESSAGE = b"\x01\x04head\x00\x04body"


class Security(ClusterCase):
    STEPS = 6

    def setUp(self) -> None:
        super().setUp()
        self.keys = os.path.join(self.folder, "keys")
        self.keygen("keys")

    def keygen(self, name: str, *more: str) -> None:
        done = subprocess.run([self.PSERVER, "keygen", "--out", os.path.join(self.folder, name), *more],
                              capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def mixed(self, name: str, client: str, server: str) -> str:
        """A worker's folder with the pair of one cluster and the servers' key of another."""
        folder = os.path.join(self.folder, name)
        os.makedirs(folder)
        shutil.copy(os.path.join(self.folder, client, "client", "client.key"), folder)
        shutil.copy(os.path.join(self.folder, server, "client", "server.pub"), folder)
        return folder

    def serve_with_keys(self, shard: int = 0, shards: int = 1) -> str:
        return self.serve(shard, shards, keys=os.path.join(self.keys, "server"))[1]

    def refused(self, reason: str) -> float:
        return self.metric(0, f'mf_connections_refused_total{{reason="{reason}"}}')

    def delivered(self) -> float:
        """Whatever came as far as a message: requests, and what did not parse."""
        series = self.scrape(self.metrics[0])
        return sum(value for name, value in series.items()
                   if name.startswith(("mf_request_seconds_count", "mf_requests_rejected_total")))

    def ask(self, address: str, keys: str = "", log: str = "ask") -> subprocess.Popen:
        command = [self.WORKER, "buckets", "--pservers", address]
        return self.start(command + (["--keys", keys] if keys else []), f"{log}.log")

    def wait_for(self, what: str, reached) -> None:
        end = time.monotonic() + DEADLINE
        while not reached():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.02)

    def speak(self, address: str, *said: bytes) -> bytes:
        """Says it over plain TCP and returns all that comes until the server hangs up, or 3 s."""
        host, port = address.removeprefix("tcp://").split(":")
        heard = b""
        with socket.create_connection((host, int(port)), timeout=3) as peer:
            try:
                for part in said:
                    peer.sendall(part)
                    time.sleep(0.05)
                while part := peer.recv(4096):
                    heard += part
            except (TimeoutError, ConnectionError):
                pass
        return heard

    def test_who_gets_in(self) -> None:
        self.keygen("other")
        addresses = [self.serve_with_keys(shard, 2) for shard in range(2)]
        self.finish("run", self.train("run", addresses, "--keys", os.path.join(self.keys, "client")))
        self.assertEqual(self.refused("handshake") + self.refused("unknown_key"), 0)
        before = self.delivered()
        self.assertGreater(before, 0)

        # One after the other, as each of them tries again and again until its deadline of 10 s.
        unlisted, wrong = self.mixed("unlisted", "other", "keys"), self.mixed("wrong-server", "keys", "other")
        strangers = {"no-key": ("handshake", "", "is --keys given on both sides"),
                     "wrong-server": ("handshake", wrong, "is --keys given on both sides"),
                     "unlisted": ("unknown_key", unlisted, "does not admit this key")}
        for name, (reason, keys, _) in strangers.items():
            count = self.refused(reason)
            process = self.ask(addresses[0], keys, name)
            self.wait_for(f"{name} is counted as {reason}", lambda: self.refused(reason) > count)
            process.kill()
            process.wait(DEADLINE)
        self.assertEqual(self.refused("unknown_key"), 1)
        processes = [self.ask(addresses[0], keys, f"{name}-2") for name, (_, keys, _) in strangers.items()]
        for process, (name, (_, _, words)) in zip(processes, strangers.items()):
            self.assertEqual(process.wait(DEADLINE), 1)
            self.assertIn(words, self.log(f"{name}-2"))

        for said in ([bytes(range(256)) * 8], [b"GET / HTTP/1.1\r\n\r\n"], [b"\xff" * 64, b"\0" * 64], [b"\x01"],
                     [greeting(b"NULL"), READY, MESSAGE], [greeting(b"PLAIN"), PLAIN_HELLO, READY, MESSAGE]):
            count = self.refused("handshake")
            heard = self.speak(addresses[0], *said)
            for word in (b"READY", b"WELCOME"):
                self.assertNotIn(word, heard)
            self.wait_for(f"{said[0][:16]!r} is counted", lambda: self.refused("handshake") > count)

        # Who announces a gigabyte before he has shown a key is heard for seconds, not for as long as he likes.
        count = self.refused("handshake")
        self.speak(addresses[0], greeting(b"CURVE"), HUGE_COMMAND, bytes(1 << 20))
        self.wait_for("a handshake without end is counted", lambda: self.refused("handshake") > count)
        self.assertEqual(self.delivered(), before)

        # The server goes on: with those that it knows, and with a new one without being started again.
        self.keygen("keys", "--add-client", "second")
        self.finish("run2", self.train("run2", addresses, "--keys", os.path.join(self.keys, "second")))
        self.assertEqual(self.result("run2"), self.result("run"))
        process = self.ask(",".join(addresses), os.path.join(self.keys, "client"))
        self.assertEqual(process.wait(DEADLINE), 0, self.log("ask"))

        # Who is taken off the list does not get in again.
        clients = os.path.join(self.keys, "server", "clients")
        with open(clients, encoding="ascii") as file:
            lines = [line for line in file if not line.endswith(" second\n")]
        with open(clients, "w", encoding="ascii") as file:
            file.writelines(lines)
        count = self.refused("unknown_key")
        process = self.ask(addresses[0], os.path.join(self.keys, "second"))
        self.wait_for("taken off the list", lambda: self.refused("unknown_key") > count)
        process.kill()

    def assert_refused(self, words: str, *command: str) -> None:
        """One line on stderr, exit code 2."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(words, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertEqual(done.stdout, "")

    def assert_does_not_serve(self, words: str, *more: str, listen: str = "tcp://127.0.0.1:0") -> None:
        self.assert_refused(words, self.PSERVER, "serve", "--listen", listen, "--shard", "0/1", "--data",
                            os.path.join(self.folder, "refused"), *more)

    def test_keys_that_protect_nothing(self) -> None:
        folder = os.path.join(self.keys, "server")
        secret, clients = os.path.join(folder, "server.key"), os.path.join(folder, "clients")
        with_keys = ("--keys", folder)
        os.chmod(secret, 0o644)
        self.assert_does_not_serve("server.key: a secret that everybody on this machine may open", *with_keys)
        os.chmod(secret, 0o600)
        with open(clients, encoding="ascii") as file:
            good = file.read()
        for content, words in (("# nobody yet\n", "nobody is admitted"), ("", "nobody is admitted"),
                               ("client short name\n", "not a file of keys"),
                               (good.replace(" client\n", "\n"), "not a file of keys")):
            with open(clients, "w", encoding="ascii") as file:
                file.write(content)
            self.assert_does_not_serve(words, *with_keys)
        os.remove(clients)
        self.assert_does_not_serve("clients: No such file", *with_keys)
        with open(clients, "w", encoding="ascii") as file:
            file.write(good)
        with open(secret, encoding="ascii") as file:
            pair = file.read()
        with open(secret, "w", encoding="ascii") as file:
            file.write(pair.replace("secret ", "sacred "))
        self.assert_does_not_serve("server.key: not a file of keys", *with_keys)
        os.remove(secret)
        self.assert_does_not_serve("server.key: No such file", *with_keys)
        with open(secret, "w", encoding="ascii") as file:
            file.write(pair)
        os.chmod(secret, 0o600)
        os.chmod(clients, 0o646)
        self.assert_does_not_serve("clients: everybody on this machine may write it", *with_keys)
        self.assert_does_not_serve("reachable from other machines without keys", listen="tcp://0.0.0.0:0")

    @unittest.skipIf(os.geteuid() == 0, "nothing is unreadable for root")
    def test_unreadable_key(self) -> None:
        folder = os.path.join(self.keys, "server")
        os.chmod(os.path.join(folder, "server.key"), 0)
        self.assert_does_not_serve("server.key: Permission denied", "--keys", folder)

    def test_list_that_is_being_edited(self) -> None:
        """Nobody is admitted meanwhile, and who came meanwhile is as soon as it is whole again."""
        address = self.serve_with_keys()
        clients = os.path.join(self.keys, "server", "clients")
        with open(clients, encoding="ascii") as file:
            good = file.read()
        with open(clients, "w", encoding="ascii") as file:
            file.write(good[:-20])
        process = self.train("run", [address], "--keys", os.path.join(self.keys, "client"))
        self.wait_for("the list cannot be read", lambda: self.refused("handshake") + self.refused("unknown_key") > 0)
        self.assertEqual(self.delivered(), 0)
        with open(clients, "w", encoding="ascii") as file:
            file.write("#client taken off the list\n" + good)
        self.finish("run", process)

    def test_worker_keys(self) -> None:
        command = (self.WORKER, "train", "--config", self.config, "--data", self.data, "--out",
                   os.path.join(self.folder, "refused"))
        secret = os.path.join(self.keys, "client", "client.key")
        os.chmod(secret, 0o604)
        where = ("--pservers", "tcp://127.0.0.1:1", "--keys", os.path.join(self.keys, "client"))
        self.assert_refused("client.key: a secret that everybody on this machine may open", *command, *where)
        os.chmod(secret, 0o600)
        os.chmod(os.path.join(self.keys, "client", "server.pub"), 0o646)
        self.assert_refused("server.pub: everybody on this machine may write it", *command, *where)
        os.remove(secret)
        self.assert_refused("client.key: No such file", *command, *where)
        self.assert_refused("--keys requires --pservers", *command, "--keys", self.keys)

    def test_libzmq_without_curve(self) -> None:
        """Keys that cannot be used are refused, and nothing is left behind."""
        environment = {**os.environ, "LD_PRELOAD": os.environ["MF_NO_CURVE"]}
        server, client = os.path.join(self.keys, "server"), os.path.join(self.keys, "client")
        serve = [self.PSERVER, "serve", "--shard", "0/1", "--data", os.path.join(self.folder, "state"), "--listen"]
        ask = ["--pservers", "tcp://127.0.0.1:1", "--keys", client]
        train = [self.WORKER, "train", "--config", self.config, "--data", self.data, "--out",
                 os.path.join(self.folder, "refused"), *ask]
        for command in ([*serve, "tcp://127.0.0.1:0", "--keys", server], [self.WORKER, "buckets", *ask], train,
                        [self.PSERVER, "keygen", "--out", os.path.join(self.folder, "new")]):
            with self.subTest(command=command[:2]):
                done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False,
                                      env=environment)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn("built without CURVE", done.stderr)
                self.assertEqual(done.stdout, "")
        self.assertFalse(os.path.exists(os.path.join(self.folder, "new")))

    def test_keygen_replaces_nothing(self) -> None:
        self.assert_refused("is there already", self.PSERVER, "keygen", "--out", self.keys)
        # Half of a cluster's files are not completed: whose they are is not known.
        half = os.path.join(self.folder, "half")
        shutil.copytree(os.path.join(self.keys, "client"), os.path.join(half, "client"))
        self.assert_refused("is there already", self.PSERVER, "keygen", "--out", half)
        self.assertFalse(os.path.exists(os.path.join(half, "server")))
        # A line that an editor left without its end stays a line.
        clients = os.path.join(self.keys, "server", "clients")
        with open(clients, encoding="ascii") as file:
            old = file.read()
        with open(clients, "w", encoding="ascii") as file:
            file.write(old.rstrip("\n"))
        # The file is replaced, and stays what it was: a link, with its owner and mode.
        kept = os.path.join(self.keys, "elsewhere")
        os.rename(clients, kept)
        os.symlink("../elsewhere", clients)
        os.chmod(kept, 0o640)
        self.keygen("keys", "--add-client", "second")
        self.assertTrue(os.path.islink(clients))
        self.assertEqual(stat.S_IMODE(os.stat(kept).st_mode), 0o640)
        with open(clients, encoding="ascii") as file:
            lines = file.read().splitlines()
        self.assertEqual(lines[:-1], old.splitlines())
        self.assertTrue(lines[-1].endswith(" second"))
        for name in ("second", "server", "../up", ""):
            with self.subTest(name):
                self.assert_refused("second already" if name == "second" else "--add-client", self.PSERVER,
                                    "keygen", "--out", self.keys, f"--add-client={name}")

    def test_clusters_that_are_made_at_once(self) -> None:
        keys = os.path.join(self.folder, "at-once")
        making = [self.start([self.PSERVER, "keygen", "--out", keys], "keygen.log") for _ in range(8)]
        self.assertEqual(sorted(process.wait(DEADLINE) for process in making), [0] + [2] * 7, self.log("keygen"))
        found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(keys) for name in names)
        self.assertEqual([os.path.relpath(path, keys) for path in found],
                         ["client/client.key", "client/server.pub", "server/clients", "server/server.key"])
        with open(found[1], encoding="ascii") as public, open(found[3], encoding="ascii") as secret:
            self.assertIn(public.read(), secret.read())  # of one making

    def test_clients_that_are_added_at_once(self) -> None:
        names = [f"client-{number}" for number in range(12)]
        adding = [self.start([self.PSERVER, "keygen", "--out", self.keys, "--add-client", name], "keygen.log")
                  for name in [*names, "twice", "twice"]]
        ended = [process.wait(DEADLINE) for process in adding]
        self.assertEqual((ended[:-2], sorted(ended[-2:])), ([0] * len(names), [0, 2]), self.log("keygen"))
        with open(os.path.join(self.keys, "server", "clients"), encoding="ascii") as file:
            admitted = [line.split() for line in file if not line.startswith("#")]
        self.assertEqual(sorted(name for _, _, name in admitted), sorted([*names, "twice", "client"]))
        for _, key, name in admitted:
            with open(os.path.join(self.keys, name, "client.key"), encoding="ascii") as file:
                self.assertIn(f"public {key}\n", file.read())


if __name__ == "__main__":
    unittest.main()
