"""The generated parts of docs/SCALING.md and docs/scaling.svg: tables and plot from scaling_model.py and from
what was measured, which is kept in scaling_rates.json.

    scaling_page.py --measured FILE...   takes rates and checks from what run.sh --json wrote: its default run,
                                         --overlap and --scaling; then writes the page
    scaling_page.py                      writes the page from the rates that are there
    scaling_page.py --check              exits with 1 if page or plot are not what this writes
"""

import argparse
import json
import math
import os
import re
import sys

from scaling_model import BACKWARD_COST, Machine, Prediction, Shape, predict, wire_bytes

HERE = os.path.dirname(os.path.abspath(__file__))
RATES = os.path.join(HERE, "scaling_rates.json")
PAGE = os.path.join(HERE, "..", "..", "docs", "SCALING.md")
PLOT = os.path.join(HERE, "..", "..", "docs", "scaling.svg")

# What each rate is made of: a line of run.sh, its name here, and what it means.
SOURCES = {
    "overlap: compute alone": ("worker_ms", "ms",
                               "worker: 16,384 tokens, d 512, 2 layers, sequence 1024, one thread"),
    "remote: forward, tau 8": ("forward_8", "tokens/s", "server: forward, K 64, h 512, τ 8, one thread"),
    "remote: backward, tau 8": ("backward_8", "tokens/s", "server: backward, the same"),
    "remote: forward, tau 13": ("forward_13", "tokens/s", "server: forward, τ 13"),
    "remote: backward, tau 13": ("backward_13", "tokens/s", "server: backward, τ 13"),
    "tensor: Prepare (norm) of those rows": ("norm", "GB/s", "server: the norm's sweep, 4 bytes a number, both cores"),
    "tensor: Apply (Adam) of those rows": ("adam", "GB/s", "server: Adam's sweep, 28 bytes a number, both cores"),
    "server: round trip over tcp": ("request_us", "us", "a request that carries nothing, and its reply"),
    "links: a server's time for a pair, tau 8": ("pair_8", "ns", "server: a pair forward, however few its columns, τ 8"),
    "links: a server's time for a pair, tau 12": ("pair_13", "ns", "the same, τ 12"),
    "machine: one TCP connection": ("connection", "GB/s", "one TCP connection, ZeroMQ, messages of 1 MiB"),
}
CHECKED = ("links:", "overlap:", "bytes:")
MEASURED_SHAPE = Shape(d=512, layers=2, K=64, tau=8)
STEP_TOKENS = 16384  # of overlap_bench.py
ROW_BYTES = 4 * 64 * 512  # of a token in exchange_bench

COUNTS = (1, 2, 4, 8, 16, 32, 64)
LINKS = (10e9, 25e9, 100e9)
PAYLOAD = 1448 / 1514  # as network.py has it
IN_FLIGHT, WAVES = 4, 2  # micro-batches on the way in a worker, and how often in a step
# 64 servers need 64 column blocks.
SHAPES = {
    "small": Shape(d=1024, layers=6, K=128, tau=8, column_blocks=64, tokens=2048),
    "large": Shape(d=1024, layers=6, K=64, tau=16, column_blocks=64, tokens=2048),
}
# Times the measured core: a worker's compute, a server's kernels and commit. And the links that there are tables for:
# a core is too slow for a faster one to matter.
SPEEDS = {"cores": (1, 1), "machines": (100, 16)}
TABLES = {"cores": LINKS[:1], "machines": LINKS}


def machine(rates: dict[str, float], shape: Shape, speeds: tuple[int, int], link: float) -> Machine:
    """A worker's compute grows with d and layers; a server's rates are those of tables of this size."""
    unit = rates["worker_ms"] / 1e3 / STEP_TOKENS / (MEASURED_SHAPE.d * MEASURED_SHAPE.layers)
    tau = 8 if shape.tau <= 10 else 13
    worker, server = speeds
    pair = rates[f"pair_{tau}"] / 1e9

    def row_bytes(name: str, per_pair: float) -> float:
        """Of rows a second, without what a pair takes anyway."""
        at_all = 1 / rates[f"{name}_{tau}"] / MEASURED_SHAPE.K
        return ROW_BYTES / MEASURED_SHAPE.K / max(at_all - per_pair, 0.2 * at_all)

    return Machine(
        worker_token=unit * shape.d * shape.layers / worker,
        forward_bytes=row_bytes("forward", pair) * server,
        backward_bytes=row_bytes("backward", pair * BACKWARD_COST) * server,
        commit_bytes=32e9 / (4 / rates["norm"] + 28 / rates["adam"]) * server,
        request=rates["request_us"] / 1e6, pair=pair / server, worker_port=link, server_port=link, payload=PAYLOAD,
        io_thread=rates["connection"] * 1e9)


def grid(rates: dict[str, float], shape: Shape, speeds: tuple[int, int],
         link: float) -> dict[tuple[int, int], Prediction]:
    """By (workers, servers)."""
    return {(workers, servers): predict(shape, machine(rates, shape, speeds, link), workers, servers,
                                        micro_batches=WAVES * IN_FLIGHT * workers, in_flight=IN_FLIGHT)
            for workers in COUNTS for servers in COUNTS}


def short(value: float) -> str:
    """Three digits at most: 850, 9.5 k, 120 k, 1.3 M."""
    for unit, name in ((1e6, " M"), (1e3, " k"), (1, "")):
        if value >= unit:
            return f"{value / unit:.{0 if value >= 10 * unit else 1}f}{name}"
    return f"{value:.1f}"


def grid_table(cells: dict[tuple[int, int], Prediction]) -> str:
    """Workers down, servers across."""
    rows = ["| workers | " + " | ".join(f"{servers} server{'s' * (servers > 1)}" for servers in COUNTS) + " |",
            "|---" * (len(COUNTS) + 1) + "|"]
    for workers in COUNTS:
        cells_of = [cells[workers, servers] for servers in COUNTS]
        rows.append(f"| {workers} | " + " | ".join(
            f"{short(cell.tokens_per_second)} {cell.bottleneck}" for cell in cells_of) + " |")
    return "\n".join(rows)


def rates_table(rates: dict[str, float]) -> str:
    rows = ["| what | measured | line of `run.sh` |", "|---|---|---|"]
    for line, (key, unit, meaning) in SOURCES.items():
        value = short(rates[key]) if unit == "tokens/s" else f"{rates[key]:.{1 if rates[key] < 100 else 0}f}"
        rows.append(f"| {meaning} | {value} {unit} | `{line}` |")
    return "\n".join(rows)


def checks_table(checks: list[dict], prefix: str) -> str:
    rows = ["| what | measured | beside |", "|---|---|---|"]
    for line in checks:
        if not line["name"].startswith(prefix):
            continue
        beside = "; ".join(f"{ratio:.2f} x {what}" for what, ratio in line["ratios"].items())
        rows.append(f"| {line['name'].removeprefix(prefix).strip()} | {line['value']:.1f} {line['unit']} | {beside} |")
    return "\n".join(rows)


def bytes_table() -> str:
    """Of one token and a block, to and from each server."""
    rows = ["| servers | forward request | forward reply | backward request | backward reply | one server, in and out |",
            "|---" * 6 + "|"]
    shape = SHAPES["small"]
    for servers in COUNTS:
        sizes = [wire_bytes(shape, bits, columns / servers) for bits, columns in shape.block()]
        total = [sum(getattr(size, name) for size in sizes)
                 for name in ("forward_request", "forward_reply", "backward_request", "backward_reply")]
        rows.append(f"| {servers} | " + " | ".join(f"{servers * part / 1e3:.1f} kB" for part in total) +
                    f" | {(total[0] + total[2]) / 1e3:.1f} and {(total[1] + total[3]) / 1e3:.1f} kB |")
    return "\n".join(rows)


def plot(grids: dict[float, dict[tuple[int, int], Prediction]]) -> str:
    """Tokens/s by servers, a panel for each link rate, a line for each number of workers."""
    width, height, left, top = 250, 240, 60, 40
    colors = {1: "#4269d0", 4: "#efb118", 16: "#3ca951", 64: "#ff725c"}
    most = max(cell.tokens_per_second for cells in grids.values() for cell in cells.values())
    least = min(cell.tokens_per_second for cells in grids.values() for cell in cells.values())
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + len(LINKS) * (width + 30) + 50}" '
             f'height="{top + height + 60}" font-family="sans-serif" font-size="11">',
             '<rect width="100%" height="100%" fill="white"/>']

    def y(value: float) -> float:
        return top + height * (1 - (math.log10(value) - low) / (high - low))

    for panel, link in enumerate(LINKS):
        x0 = left + panel * (width + 30)

        def x(servers: int, start: float = x0) -> float:
            return start + 10 + (width - 20) * math.log2(servers) / math.log2(COUNTS[-1])

        parts.append(f'<rect x="{x0}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>')
        parts.append(f'<text x="{x0 + width / 2}" y="{top - 10}" text-anchor="middle">'
                     f'{link / 1e9:.0f} Gbit/s</text>')
        for power in range(low, high + 1):
            parts.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y(10**power):.1f}" y2="{y(10**power):.1f}" '
                         'stroke="#ddd"/>')
            if panel == 0:
                parts.append(f'<text x="{x0 - 6}" y="{y(10**power) + 4:.1f}" text-anchor="end">'
                             f'{short(10.0**power)}</text>')
        for servers in COUNTS:
            parts.append(f'<text x="{x(servers):.1f}" y="{top + height + 15}" text-anchor="middle">{servers}</text>')
        for workers, color in colors.items():
            points = [(x(servers), y(grids[link][workers, servers].tokens_per_second)) for servers in COUNTS]
            parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="' +
                         " ".join(f"{px:.1f},{py:.1f}" for px, py in points) + '"/>')
            if panel == len(LINKS) - 1:
                parts.append(f'<text x="{points[-1][0] + 14:.1f}" y="{points[-1][1] + 4:.1f}" fill="{color}">'
                             f'{workers} worker{"s" * (workers > 1)}</text>')
    parts.append(f'<text x="{left + len(LINKS) * (width + 30) / 2}" y="{top + height + 40}" '
                 'text-anchor="middle">servers</text>')
    parts.append(f'<text x="12" y="{top - 10}">tokens/s</text></svg>')
    return "\n".join(parts) + "\n"


def generated(rates: dict[str, float], checks: list[dict]) -> tuple[dict[str, str], str]:
    """What stands between the page's markers, by name, and the plot."""
    blocks = {"rates": rates_table(rates), "bytes": bytes_table()}
    for prefix in CHECKED:
        blocks["check-" + prefix[:-1]] = checks_table(checks, prefix)
    grids = {(shape, speed): {link: grid(rates, SHAPES[shape], SPEEDS[speed], link) for link in TABLES[speed]}
             for shape in SHAPES for speed in SPEEDS}
    for (shape, speed), by_link in grids.items():
        blocks[f"{shape}-{speed}"] = "\n\n".join(f"{link / 1e9:.0f} Gbit/s:\n\n{grid_table(cells)}"
                                                 for link, cells in by_link.items())
    return blocks, plot(grids["small", "machines"])


def take(paths: list[str], kept: dict) -> dict:
    """Rates and checks of `kept` with those in the files instead."""
    lines = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            lines += json.load(file)
    rates, checks = dict(kept["rates"]), {line["name"]: line for line in kept["checks"]}
    fresh = {name.partition(":")[0] for name in (line["name"] for line in lines)}
    checks = {name: line for name, line in checks.items() if name.partition(":")[0] not in fresh}
    for line in lines:
        if line["name"] in SOURCES:
            rates[SOURCES[line["name"]][0]] = line["value"]
        if line["name"].startswith(CHECKED):
            checks[line["name"]] = line
    return {"rates": rates, "checks": list(checks.values())}


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--measured", nargs="+", metavar="FILE", default=[])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    kept = {"rates": {}, "checks": []}
    if os.path.exists(RATES):
        with open(RATES, encoding="utf-8") as file:
            kept = json.load(file)
    if options.measured:
        kept = take(options.measured, kept)
        with open(RATES, "w", encoding="utf-8") as file:
            json.dump(kept, file, indent=1)
            file.write("\n")
    missing = [line for line, (key, _, _) in SOURCES.items() if key not in kept["rates"]]
    if missing:
        sys.exit(f"scaling_page.py: not measured yet: {missing}")
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    written = page
    blocks, drawn = generated(kept["rates"], kept["checks"])
    for name, block in blocks.items():
        marked = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        if not marked.search(written):
            sys.exit(f"scaling_page.py: docs/SCALING.md has no markers for {name}")
        written = marked.sub(lambda found, block=block: found[1] + block + "\n" + found[2], written)
    contents = {PAGE: written, PLOT: drawn}
    for path, content in contents.items():
        if options.check:
            with open(path, encoding="utf-8") as file:
                if file.read() != content:
                    sys.exit(f"scaling_page.py: {os.path.relpath(path)} is not what the model says: run it")
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)


if __name__ == "__main__":
    main()
