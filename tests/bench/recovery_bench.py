"""What safety costs: the time that training loses to a snapshot, and the time from a killed server to the next
step, on more than 1 GiB of table state, each beside the disk's own rate for the same bytes in the same run.
Usage: recovery_bench.py PATH_OF_WORKER PATH_OF_PSERVER [--steps N] [--layers N]"""

import glob
import argparse
import json
import os
import random
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request

CONFIG = """[model]
d = 512
layers = {layers}
heads = 8
K = 64
tau = 8
sequence = 128
[train]
micro_batches = 2
batch = 2
eval_every = 0
eval_batches = 1
[snapshot]
every_steps = {every}
"""
SERVERS = 2


class Cluster:
    def __init__(self, worker: str, pserver: str, folder: str) -> None:
        self.worker, self.pserver, self.folder = worker, pserver, folder
        self.metrics: dict[int, str] = {}
        self.running: list[subprocess.Popen] = []

    def start(self, command: list[str], log: str) -> subprocess.Popen:
        with open(os.path.join(self.folder, log), "a", encoding="utf-8") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.running.append(process)
        return process

    def serve(self, shard: int, listen: str = "tcp://127.0.0.1:0"):
        process = self.start([self.pserver, "serve", "--listen", listen, "--shard", f"{shard}/{SERVERS}",
                              "--data", os.path.join(self.folder, "state"), "--threads", "1",
                              "--metrics", "127.0.0.1:0"], f"pserver-{shard}.log")
        address = process.stdout.readline().split()[1]
        self.metrics[shard] = process.stdout.readline().split()[1]
        return process, address

    def metric(self, shard: int, series: str) -> float:
        try:
            with urllib.request.urlopen(f"http://{self.metrics[shard]}/metrics", timeout=10) as answer:
                found = re.search(rf"^{re.escape(series)} (\S+)$", answer.read().decode(), re.MULTILINE)
        except OSError:
            return -1
        return float(found[1]) if found else 0

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()


def disk_rates(folder: str, size: int) -> tuple[float, float]:
    """Bytes per second of a plain file, written and synced, then read back from the disk."""
    path, block = os.path.join(folder, "plain"), random.randbytes(1 << 24)
    start = time.monotonic()
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // len(block)):
            file.write(block)
        os.fsync(file.fileno())
    written = time.monotonic() - start
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.monotonic()
        while file.read(len(block)):
            pass
    read = time.monotonic() - start
    os.remove(path)
    size = size // len(block) * len(block)
    return size / written, size / read


def step_seconds(out: str) -> dict[int, float]:
    with open(os.path.join(out, "metrics.jsonl"), encoding="ascii") as file:
        lines = [json.loads(line) for line in file if line.endswith("\n")]
    tokens = lines[0]["tokens"]
    # null: a step that this worker did not time.
    return {line["step"]: tokens / line["tokens_per_second"] for line in lines if line["tokens_per_second"]}


def folder_bytes(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=15)
    parser.add_argument("--layers", type=int, default=2)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as folder:
        cluster = Cluster(flags.worker, flags.pserver, folder)
        try:
            measure(cluster, flags, folder)
        finally:
            cluster.end()


def measure(cluster: Cluster, flags: argparse.Namespace, folder: str) -> None:
    config, data, out = (os.path.join(folder, name) for name in ("run.toml", "data.txt", "out"))
    with open(config, "w", encoding="ascii") as file:
        file.write(CONFIG.format(layers=flags.layers, every=flags.every))
    with open(data, "w", encoding="ascii") as file:
        draw = random.Random(1)
        file.write(" ".join(draw.choice("the a river runs under old stones".split()) for _ in range(20000)))
    servers = [cluster.serve(shard) for shard in range(SERVERS)]
    addresses = [address for _, address in servers]
    worker = cluster.start([cluster.worker, "train", "--config", config, "--data", data, "--out", out, "--steps",
                            str(flags.steps + 10000), "--threads", "1", "--pservers", ",".join(addresses)], "worker.log")

    def steps() -> int:
        assert worker.poll() is None, "the worker ended; its log: " + open(os.path.join(folder, "worker.log")).read()
        return int(cluster.metric(0, "mf_step"))

    while steps() < flags.steps:
        time.sleep(0.1)
    taken = int(cluster.metric(0, "mf_snapshot_seconds_count"))
    seconds = cluster.metric(0, "mf_snapshot_seconds_sum") / taken
    table = sum(cluster.metric(shard, f'mf_table_bytes{{layer="blocks.{block}.{layer}"}}')
                for shard in range(SERVERS) for block in range(flags.layers) for layer in ("qkv", "m1", "m2"))
    written = sum(cluster.metric(shard, "mf_snapshot_bytes") for shard in range(SERVERS))

    # Steps that ran beside a snapshot, and those that did not; the first ones warm up.
    each = step_seconds(out)
    typical = statistics.median(each.values())
    beside = 2 + int(seconds / typical)
    busy = [s for s in each if s > flags.every and s % flags.every <= beside]
    quiet = [each[s] for s in each if s > 5 and s not in busy]
    quiet_typical = statistics.median(quiet)
    lost = sum(each[s] - quiet_typical for s in busy) / (len(busy) / (beside + 1))
    write_rate, _ = disk_rates(folder, int(written))

    run = glob.glob(os.path.join(folder, "state", "run-*"))[0]
    newest = max(int(name[5:]) for name in os.listdir(os.path.join(run, f"shard-1-of-{SERVERS}"))
                 if name.startswith("step-"))
    state = sum(folder_bytes(os.path.join(run, f"shard-{shard}-of-{SERVERS}", f"step-{newest}"))
                for shard in range(SERVERS))
    killed = time.monotonic()
    servers[1][0].kill()
    servers[1][0].wait()
    cluster.serve(1, addresses[1])
    while not 0 < cluster.metric(0, "mf_recoveries_total") - 1:
        time.sleep(0.02)
    rolled_back = int(cluster.metric(0, "mf_step"))
    while steps() <= rolled_back:
        time.sleep(0.02)
    recovery = time.monotonic() - killed
    _, read_rate = disk_rates(folder, state)

    print(f"table state and gradients in memory {table / 2**30:.2f} GiB on {SERVERS} servers, "
          f"a step takes {quiet_typical:.2f} s")
    print(f"snapshot            {written / 2**30:.2f} GiB in {seconds:.1f} s: {written / seconds / 1e6:.0f} MB/s, "
          f"plain file and fsync {write_rate / 1e6:.0f} MB/s, {written / seconds / write_rate:.2f} x")
    print(f"lost to a snapshot  {lost:.2f} s of training: {lost / 60 * 100:.1f}% at one a minute ({taken} snapshots)")
    print(f"recovery            {recovery:.1f} s from the kill of one server to the next step; reading "
          f"{state / 2**30:.2f} GiB of snapshots from the disk {state / read_rate:.1f} s")


if __name__ == "__main__":
    main()
