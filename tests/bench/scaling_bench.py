"""Bytes and time with more servers: what goes over the wire beside DESIGN 2.1, and steps over links of limited
rate beside the model of docs/SCALING.md (scaling_model.py).

    scaling_bench.py WORKER PSERVER [--json FILE] [--steps N] [--rate BITS]

Bytes: one worker with 1, 2 and 3 servers; counted by the servers (mf_wire_bytes_total) over whole runs.
Time: one worker with 1, 2 and 4 servers, each behind a link of 1 Gbit/s of its own. What the model takes of
this machine (processor time of a token on the worker, of a pair and of its columns on a server, commit) is measured
with 1 and 2 servers and no limit; the limited runs are predicted from that and from bytes.
"""

import argparse
import dataclasses
from typing import Iterator, NamedTuple

import network
import scaling_model
from cluster import Cluster, Observed, end_cleanly, scrape, text
from report import Report
from scaling_model import Shape, wire_bytes

BYTES_SHAPE = Shape(d=512, layers=2, K=64, tau=8)
BYTES_STEPS = 2
LINK_SHAPE = Shape(d=192, layers=2, K=16, tau=12, expand_bits=0, column_blocks=4)
SMALL_SHAPE = Shape(d=128, layers=2, K=16, tau=8, expand_bits=0, column_blocks=4)  # tables that stay in cache
SEQUENCE = 128
MICRO_BATCHES, IN_FLIGHT, WINDOW = 16, 6, 16
WARM_UP = 3
CORES = 2  # of this machine, for all programs


def config(shape: Shape) -> bytes:
    """A run of this shape, forced to pushdown, without snapshots."""
    model = {"d": shape.d, "layers": shape.layers, "heads": 4, "K": shape.K, "tau": shape.tau,
             "expand_bits": shape.expand_bits, "column_blocks": shape.column_blocks, "sequence": SEQUENCE}
    lines = "".join(f"{key} = {value}\n" for key, value in model.items())
    return (f"[model]\n{lines}[train]\nmicro_batches = {MICRO_BATCHES}\nbatch = {shape.tokens // SEQUENCE}\n"
            f"window = {WINDOW}\neval_every = 0\neval_batches = 1\n[snapshot]\nevery_minutes = 0\n"
            f"[exchange]\nmode = \"pushdown\"\nin_flight = {IN_FLIGHT}\n").encode()


def plural(servers: int) -> str:
    return f"{servers} server{'s' * (servers > 1)}"


class BytesLine(NamedTuple):
    """Of a token and memory layer, the mean over the layers, all servers together."""

    name: str
    measured: float
    formula: float


def bytes_lines(shape: Shape, servers: int, counted: list[dict[str, float]], trained: int) -> Iterator[BytesLine]:
    """What the servers counted in a run of so many tokens, which ended with one sequence of evaluation."""
    layers = shape.memory_layers()
    for op, tokens in (("forward", trained + SEQUENCE), ("backward", trained)):
        for direction, part in (("received", "request"), ("sent", "reply")):
            series = f'mf_wire_bytes_total{{direction="{direction}",op="{op}"}}'
            measured = sum(server[series] for server in counted) / tokens / len(layers)
            # All servers together: their columns are those of one that has all, the rest is multiplied.
            parts = [[getattr(wire_bytes(shape, bits, wide), f"{op}_{part}") for wide in (0, columns)]
                     for bits, columns in layers]
            formula = sum(servers * none + (all_columns - none) for none, all_columns in parts) / len(layers)
            yield BytesLine(f"{op} {part}", measured, formula)


def measure_bytes(flags: argparse.Namespace, report: Report) -> None:
    """Bytes of runs with 1, 2 and 3 servers."""
    shape = BYTES_SHAPE
    for servers in (1, 2, 3):
        with Cluster(flags.worker, flags.pserver) as cluster:
            path, data = cluster.write("run.toml", config(shape)), cluster.write("data.txt", text(200_000))
            for shard in range(servers):
                cluster.serve(shard, servers)
            cluster.finish("worker", cluster.train("worker", path, data, [f"train.steps={BYTES_STEPS}"]))
            counted = [scrape(address) for address in cluster.metrics]
        for line in bytes_lines(shape, servers, counted, BYTES_STEPS * MICRO_BATCHES * shape.tokens):
            report.line(f"bytes: {line.name}, {plural(servers)}", line.measured, "B",
                        {"DESIGN 2.1": line.measured / line.formula}, f"DESIGN 2.1: {line.formula:.1f}")


def observe(flags: argparse.Namespace, links: network.Links, servers: int, bits: float,
            shape: Shape = LINK_SHAPE) -> Observed:
    """A step with so many servers, each behind a link of this rate."""
    links.limit(bits)
    with Cluster(flags.worker, flags.pserver) as cluster:
        path, data = cluster.write("run.toml", config(shape)), cluster.write("data.txt", text(1_000_000))
        processes = [cluster.serve(shard, servers, host=links.hosts[shard], prefix=links.prefix(shard))
                     for shard in range(servers)]
        worker = cluster.train("worker", path, data, [])
        return cluster.observe("worker", worker, processes, WARM_UP, flags.steps)


def pair_seconds(shape: Shape, one: Observed, two: Observed) -> float:
    """What a server needs for a pair forward however few columns it has, from steps with 1 and 2 servers over
    links without limit: only that takes more processor time where servers are more."""
    forward = len(shape.memory_layers()) * shape.K * MICRO_BATCHES * shape.tokens
    return max(two.servers - one.servers, 0) / forward / (1 + scaling_model.BACKWARD_COST)


def measure_links(flags: argparse.Namespace, report: Report) -> None:
    """Steps beside the model."""
    with network.Links(4) as links:
        free = {servers: observe(flags, links, servers, 0) for servers in (1, 2)}
        pair = pair_seconds(LINK_SHAPE, free[1], free[2])
        # Commit keeps the server's processor busy.
        machine = scaling_model.measured_machine(
            LINK_SHAPE, MICRO_BATCHES * LINK_SHAPE.tokens, free[1].worker + free[1].messages, free[1].servers - free[1].commit, pair,
            payload=network.PAYLOAD, cores=CORES)
        small = pair_seconds(SMALL_SHAPE, *(observe(flags, links, servers, 0, SMALL_SHAPE) for servers in (1, 2)))
        for servers, seen in free.items():
            report.line(f"links: a step, {plural(servers)}, no limit", seen.step * 1e3, "ms",
                        note=f"worker {seen.worker * 1e3:.0f}, servers {seen.servers * 1e3:.0f} ms of a processor")
        report.line("links: commit, no limit", free[1].commit * 1e3, "ms")
        for tau, seconds in ((8, small), (12, pair)):
            report.line(f"links: a server's time for a pair, tau {tau}", seconds * 1e9, "ns",
                        note="forward, whatever columns it has")
        for servers in (1, 2, 4):
            limited = observe(flags, links, servers, flags.rate)
            predicted = scaling_model.predict(
                LINK_SHAPE, dataclasses.replace(machine, server_port=flags.rate), workers=1, servers=servers,
                micro_batches=MICRO_BATCHES, in_flight=IN_FLIGHT, window=WINDOW,
                commit=free[1].commit / min(servers, CORES))
            port = 8 * max(limited.up, limited.down) / servers / network.PAYLOAD / flags.rate
            report.line(f"links: a step, {plural(servers)}, {flags.rate / 1e9:g} Gbit/s each", limited.step * 1e3, "ms",
                        {"the model's": limited.step / predicted.seconds, "the bytes' time": limited.step / port},
                        f"model: {predicted.seconds * 1e3:.0f} ms, {predicted.bottleneck}; worker "
                        f"{limited.worker * 1e3:.0f}, servers {limited.servers * 1e3:.0f} ms of a processor")


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("--json", default="")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e9)
    flags = parser.parse_args()
    network.enter()
    end_cleanly()
    report = Report(flags.json)
    measure_bytes(flags, report)
    measure_links(flags, report)


if __name__ == "__main__":
    main()
