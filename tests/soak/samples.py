"""What processes use while they run: read from /proc, fitted by a line, judged, drawn."""

import csv
import dataclasses
import math
import os

WARM_UP = 0.25     # of the run: buffers, tables and arenas of threads grow to their sizes
BLOCKS = 20        # means of neighbours in time, so that what errors have in common does not look like certainty
T_95 = 2.101       # of Student's distribution with BLOCKS - 2 degrees of freedom, two-sided
MB = 1e6


@dataclasses.dataclass(frozen=True)
class Quantity:
    """`bound`: growth per hour that is called flat; `share` and `few`: what it may be over the whole window in a short
    run, as a part of the mean and in units. `steps`: what is kept of each step comes to it."""

    name: str
    unit: str
    bound: float
    share: float
    few: float
    steps: bool = False


QUANTITIES = (Quantity("pss", "MB", 1.0, 0.02, 0.0, steps=True),
              Quantity("anonymous", "MB", 1.0, 0.02, 0.0, steps=True),
              Quantity("descriptors", "", 1.0, 0.0, 2.0), Quantity("threads", "", 1.0, 0.0, 2.0))

# Bytes that are kept of each step, for as long as the run lasts. A server: its rate (8), and for the tensors that decay
# and for those that do not the rate of each and the logarithm of their decay (12 each), which a row that missed steps
# is brought up to date with. Server 0 also the step's record (48), for workers that come later. A worker: a hash of the
# line that it reported.
KEPT = {"server 0": 80, "server": 32, "worker": 8}


def kept(role: str) -> int:
    return KEPT.get(role, KEPT[role.split()[0]])


@dataclasses.dataclass(frozen=True)
class Sample:
    seconds: float
    step: int
    role: str
    process: int
    pss: float        # MB; pages that are shared count by their share
    anonymous: float  # MB of it that are no file's: heap, stacks, tables
    descriptors: float
    threads: float


@dataclasses.dataclass(frozen=True)
class Slope:
    role: str
    quantity: Quantity
    mean: float
    per_hour: float
    error: float  # standard error of per_hour
    bound: float  # per hour, in this window

    @property
    def flat(self) -> bool:
        """False if it grows faster than the bound with a certainty of 95%."""
        return self.per_hour - T_95 * self.error <= self.bound

    @property
    def noticed(self) -> float:
        """What would have to grow per hour to be called growth."""
        return self.bound + T_95 * self.error


def sample(process: int, seconds: float, step: int, role: str) -> Sample | None:
    """None if the process has ended."""
    folder = f"/proc/{process}"
    try:
        with open(f"{folder}/smaps_rollup", encoding="ascii") as file:
            sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in file if line.endswith("kB\n")}
        with open(f"{folder}/status", encoding="utf-8") as file:
            threads = next(int(line.split()[1]) for line in file if line.startswith("Threads:"))
        descriptors = len(os.listdir(f"{folder}/fd"))
    except (OSError, StopIteration):
        return None
    if "Pss:" not in sizes:
        return None
    return Sample(seconds, step, role, process, sizes["Pss:"] / MB, sizes["Pss_Anon:"] / MB, descriptors, threads)


def fit(times: list[float], values: list[float]) -> tuple[float, float]:
    """Slope of a line by least squares through the means of BLOCKS blocks, and its standard error."""
    size = len(times) // BLOCKS
    if size == 0:
        raise ValueError(f"{len(times)} samples; a slope needs {BLOCKS}")
    skipped = len(times) - size * BLOCKS
    begins = range(skipped, len(times), size)
    x = [math.fsum(times[begin:begin + size]) / size for begin in begins]
    y = [math.fsum(values[begin:begin + size]) / size for begin in begins]
    x_mean, y_mean = math.fsum(x) / BLOCKS, math.fsum(y) / BLOCKS
    spread = math.fsum((a - x_mean) ** 2 for a in x)
    slope = math.fsum((a - x_mean) * (b - y_mean) for a, b in zip(x, y)) / spread
    rest = math.fsum((b - y_mean - slope * (a - x_mean)) ** 2 for a, b in zip(x, y))
    return slope, math.sqrt(rest / (BLOCKS - 2) / spread)


def slopes(samples: list[Sample], roles: list[str]) -> list[Slope]:
    """Of processes that lived from the beginning to the end, after the warm-up."""
    begin, end = samples[0].seconds, samples[-1].seconds
    warm = begin + WARM_UP * (end - begin)
    hours = (end - warm) / 3600
    found = []
    for role in roles:
        own = [one for one in samples if one.role == role and one.seconds >= warm]
        if len({one.process for one in own}) != 1:
            raise ValueError(f"{role} is not one process")
        of_steps = kept(role) * (own[-1].step - own[0].step) / MB / hours
        for quantity in QUANTITIES:
            values = [getattr(one, quantity.name) for one in own]
            mean = math.fsum(values) / len(values)
            slope, error = fit([one.seconds / 3600 for one in own], values)
            bound = max(quantity.bound, (quantity.share * mean + quantity.few) / hours)
            bound += of_steps if quantity.steps else 0
            found.append(Slope(role, quantity, mean, slope, error, bound))
    return found


def table(found: list[Slope]) -> str:
    """Markdown."""
    lines = ["| process | quantity | mean | growth per hour | standard error | bound | would be noticed | |",
             "|---|---|---|---|---|---|---|---|"]
    for slope in found:
        unit = f" {slope.quantity.unit}".rstrip()
        lines.append(f"| {slope.role} | {slope.quantity.name} | {slope.mean:.1f}{unit} | {slope.per_hour:+.2f}{unit} | "
                     f"{slope.error:.2f} | {slope.bound:.1f} | {slope.noticed:.1f} | "
                     f"{'flat' if slope.flat else 'GROWS'} |")
    return "\n".join(lines)


def write(samples: list[Sample], path: str) -> None:
    with open(path, "w", encoding="ascii", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in dataclasses.fields(Sample)])
        writer.writerows(dataclasses.astuple(one) for one in samples)


COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
WIDTH, HEIGHT, LEFT, TOP, GAP = 900, 150, 70, 40, 40


def panel(samples: list[Sample], roles: list[str], quantity: Quantity, top: int) -> list[str]:
    """One quantity of all roles over time; a line ends where its process does."""
    end = max(one.seconds for one in samples)
    most = 1.1 * max(getattr(one, quantity.name) for one in samples)
    x = lambda seconds: LEFT + WIDTH * seconds / end
    y = lambda value: top + HEIGHT * (1 - value / most)
    parts = [f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
             f'<text x="{LEFT}" y="{top - 6}">{quantity.name} {quantity.unit}</text>',
             f'<rect x="{LEFT}" y="{top}" width="{WIDTH * WARM_UP:.0f}" height="{HEIGHT}" fill="#eee"/>']
    for value in (0, most / 2, most):
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0f}</text>')
    for color, role in zip(COLORS, roles):
        lives: dict[int, list[Sample]] = {}
        for one in samples:
            if one.role == role:
                lives.setdefault(one.process, []).append(one)
        for life in lives.values():
            points = " ".join(f"{x(one.seconds):.1f},{y(getattr(one, quantity.name)):.1f}" for one in life)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}"/>')
    return parts


def plot(samples: list[Sample], roles: list[str]) -> str:
    """SVG: a panel for each quantity. What is grey is the warm-up."""
    height = TOP + len(QUANTITIES) * (HEIGHT + GAP) + 20
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}" '
             'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>']
    for i, (color, role) in enumerate(zip(COLORS, roles)):
        parts.append(f'<text x="{LEFT + 150 * i}" y="16" fill="{color}">{role}</text>')
    for i, quantity in enumerate(QUANTITIES):
        parts += panel(samples, roles, quantity, TOP + i * (HEIGHT + GAP))
    end = max(one.seconds for one in samples)
    parts.append(f'<text x="{LEFT + WIDTH}" y="{height - 16}" text-anchor="end">{end / 60:.1f} min</text></svg>')
    return "\n".join(parts) + "\n"
