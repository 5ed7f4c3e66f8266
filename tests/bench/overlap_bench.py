"""Do compute and exchange overlap? One worker with one thread, one server with one thread, and between them a link
whose rate is set so that a step's exchange alone takes as long as its compute alone: then a whole step should
take little more than one of the two.

    overlap_bench.py WORKER PSERVER REPLAY_BENCH [--json FILE] [--in-flight N] [--steps N]

- compute alone: the processor time that the worker's threads take in a step, but those that move messages (one
  lane computes at a time, on one thread), over a link without limit;
- exchange alone: recorded requests of such a step sent by as many lanes, answers awaited, nothing computed
  (replay_bench): the link, the server's kernels and what sending takes;
- a step: the median of metrics.jsonl, commit included, over that link.

The rate is searched until both are within 10% of each other. Where the exchange is slower than the compute by more
than 20% even without limit, no rate makes them equal: then that is said, and the step is measured without limit.
"""

import argparse

import network
import scaling_model
from cluster import Cluster, Observed, end_cleanly, text
from report import Report

SEQUENCE, MICRO_BATCHES = 1024, 16
CONFIG = f"""[model]
d = 512
layers = 2
heads = 8
K = 64
tau = 8
sequence = {SEQUENCE}
[train]
micro_batches = {MICRO_BATCHES}
batch = 1
window = {MICRO_BATCHES}
eval_every = 0
[snapshot]
every_minutes = 0
[exchange]
mode = "pushdown"
"""
SMALL = ("K = 64", "K = 8"), ("d = 512", "d = 64"), (f"sequence = {SEQUENCE}", "sequence = 64")
WARM_UP = 3
NEAR, FAR = 0.1, 0.2  # compute and exchange alone should be, and must be, within so much of each other
TRIES = 4


class Bench:
    """A place for the server, and what is measured with it."""

    def __init__(self, flags: argparse.Namespace, links: network.Links) -> None:
        self.flags, self.links = flags, links
        self.config = CONFIG + f"in_flight = {flags.in_flight}\n"
        if flags.small:
            for old, new in SMALL:
                self.config = self.config.replace(old, new)

    def cluster(self) -> Cluster:
        return Cluster(self.flags.worker, self.flags.pserver)

    def files(self, cluster: Cluster) -> tuple[str, str]:
        """Configuration and data."""
        return cluster.write("run.toml", self.config.encode()), cluster.write("data.txt", text(1_000_000))

    def step(self, bits: float) -> Observed:
        """Training over a link of this rate; 0: no limit."""
        self.links.limit(bits)
        with self.cluster() as cluster:
            config, data = self.files(cluster)
            server = cluster.serve(0, 1, host=self.links.hosts[0], prefix=self.links.prefix(0))
            worker = cluster.train("worker", config, data, [])
            return cluster.observe("worker", worker, [server], WARM_UP, self.flags.steps)

    def exchange(self, bits: float) -> float:
        """Seconds of a step's exchange alone."""
        self.links.limit(bits)
        with self.cluster() as cluster:
            config, data = self.files(cluster)
            cluster.serve(0, 1, host=self.links.hosts[0], prefix=self.links.prefix(0))
            replay = cluster.start("replay", [self.flags.replay, "--config", config, "--data", data, "--pserver",
                                              cluster.addresses[0], "--in-flight", str(self.flags.in_flight),
                                              "--micro-batches", str(MICRO_BATCHES)])
            cluster.finish("replay", replay)
            return float(replay.stdout.readline())

    def equal_rate(self, free: Observed) -> tuple[float, float]:
        """The rate at which the exchange alone takes as long as the compute alone, and the exchange's seconds there;
        0 if it is slower at any rate."""
        unlimited = self.exchange(0)
        if unlimited > (1 + FAR) * free.worker:
            return 0, unlimited
        # At this rate the busier way of the link alone takes so long; from there the exchange's time goes with 1 / rate.
        bits = 8 * max(free.up, free.down) / network.PAYLOAD / free.worker
        tried: dict[float, float] = {}
        for _ in range(TRIES):
            tried[bits] = seconds = self.exchange(bits)
            if abs(seconds / free.worker - 1) < NEAR:
                break
            bits *= seconds / free.worker
        return min(tried.items(), key=lambda rate_and_time: abs(rate_and_time[1] / free.worker - 1))


def modelled(flags: argparse.Namespace, free: Observed, bits: float) -> float:
    """Seconds of a step as docs/SCALING.md has it, from what programs take without limit."""
    shape = scaling_model.Shape(d=512, layers=2, K=64, tau=8, tokens=SEQUENCE)
    machine = scaling_model.measured_machine(
        shape, MICRO_BATCHES * SEQUENCE, free.worker + free.messages, free.servers - free.commit, payload=network.PAYLOAD, cores=2,
        server_port=bits or float("inf"))
    return scaling_model.predict(shape, machine, workers=1, servers=1, micro_batches=MICRO_BATCHES,
                                 in_flight=flags.in_flight, commit=free.commit).seconds


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("replay")
    parser.add_argument("--json", default="")
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--small", action="store_true", help="to see that it runs")
    flags = parser.parse_args()
    network.enter()
    end_cleanly()
    report = Report(flags.json)
    with network.Links(1) as links:
        bench = Bench(flags, links)
        free = bench.step(0)
        bits, exchange = bench.equal_rate(free)
        limited = bench.step(bits) if bits else free
    compute, milli = free.worker, 1e3
    larger = max(compute, exchange)
    if bits:
        report.line("overlap: rate of the link, each way", bits / 1e6, "Mbit/s",
                    note=f"{limited.up / 1e6:.0f} MB there and {limited.down / 1e6:.0f} MB back a step")
    else:
        print("overlap: the exchange alone is slower than the compute alone at any rate; no limit is set")
    report.line("overlap: compute alone", compute * milli, "ms",
                note=f"a step of {MICRO_BATCHES * SEQUENCE} tokens, worker, one thread")
    report.line("overlap: exchange alone", exchange * milli, "ms", {"compute alone": exchange / compute},
                "the same requests, nothing computed")
    everything = limited.worker + limited.messages + limited.servers
    report.line("overlap: all processor time over 2 cores", everything / 2 * milli, "ms",
                {"compute alone": everything / 2 / compute},
                f"server {limited.servers * milli:.0f}, worker's messages {limited.messages * milli:.0f} ms")
    report.line("overlap: a step, link without limit", free.step * milli, "ms",
                {"compute alone": free.step / compute, "the model's": free.step / modelled(flags, free, 0)})
    report.line("overlap: a step", limited.step * milli, "ms",
                {"the larger of both": limited.step / larger, "their sum": limited.step / (compute + exchange),
                 "the model's": limited.step / modelled(flags, free, bits)},
                f"of it commit {limited.commit * milli:.0f} ms")


if __name__ == "__main__":
    main()
