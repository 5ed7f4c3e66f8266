"""Draws the dashboards from a running Prometheus: the panels at their places, their own queries, no Grafana.

    python3 tests/compose/picture.py http://127.0.0.1:9090 docs/dashboards

tests/compose/run.sh --picture FOLDER does so at the end of its run."""

import argparse
import os
import re
import time

import matplotlib

matplotlib.use("svg")
# pylint: disable=wrong-import-position
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

import dashboards

POINTS = 240            # of a line
CELL = (0.62, 0.36)     # inches a column and a row of Grafana's grid
MOST_NAMED = 12         # lines in a legend
SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
UNITS = {"s": " s", "bytes": "B", "Bps": "B/s", "reqps": "/s"}


def text_of(value: float, unit: str) -> str:
    if value != value:
        return "no data"
    if unit == "percentunit":
        return f"{100 * value:.4g}%"
    for factor, letter in SCALES if unit != "s" else ():
        if abs(value) >= factor:
            return f"{value / factor:.3g} {letter}{UNITS.get(unit, '')}"
    return f"{value:.4g}{UNITS.get(unit, '')}"


def name_of(target: dict, labels: dict[str, str]) -> str:
    name = target.get("legendFormat") or ""
    for key, value in labels.items():
        name = name.replace("{{" + key + "}}", value)
    return name


def draw_stat(axes, panel: dict, cluster, layer: str) -> None:
    values = [cluster.value(dashboards.fill_in(target["expr"], layer, "1h")) for target in panel["targets"]]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.axis("off")
    axes.text(0.5, 0.4, " of ".join(text_of(value, unit) for value in values), ha="center", va="center",
              fontsize=17, color="#1f6f43")


def draw_lines(axes, panel: dict, cluster, begin: float, end: float) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    named = 0
    for target in panel["targets"]:
        found = cluster.api("query_range", query=target["expr"], start=f"{begin:.0f}", end=f"{end:.0f}",
                            step=f"{max(5.0, (end - begin) / POINTS):.0f}")["result"]
        for series in found:
            at = [(float(when) - begin) / 60 for when, _ in series["values"]]
            axes.plot(at, [float(value) for _, value in series["values"]], linewidth=1.1,
                      label=name_of(target, series["metric"]) if named < MOST_NAMED else None)
            named += 1
    if named:
        axes.legend(fontsize=5.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value, unit)))
    axes.set_xlim(0, (end - begin) / 60)
    axes.set_xlabel("minutes", fontsize=6)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0), high)
    axes.grid(alpha=0.3, linewidth=0.5)


def draw_bars(axes, panel: dict, cluster, begin: float, end: float, layer: str) -> None:
    expr = dashboards.fill_in(panel["targets"][0]["expr"], layer, f"{end - begin:.0f}s")
    found = sorted((int(one["metric"]["bin"]), float(one["value"][1])) for one in cluster.series(expr))
    axes.bar([bin_ for bin_, _ in found], [value for _, value in found], width=0.85)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value, "none")))
    axes.set_xlabel("bin of the bucket number", fontsize=6)


def shorten(file: str) -> None:
    """Tenths of a point are enough: half of the bytes are further digits. What people read stays as it is."""
    with open(file, encoding="utf-8") as old:
        text = re.sub(r"(>[^<>]*</text>)|(\d\.\d)\d+", lambda found: found[1] or found[2], old.read())
    with open(file, "w", encoding="utf-8") as new:
        new.write(text)


def draw(cluster, folder: str, layer: str) -> None:
    """`cluster` answers as watch.Prometheus does. One SVG a coordinator, from the first sample until now."""
    os.makedirs(folder, exist_ok=True)
    plt.rcParams.update({"axes.prop_cycle": plt.cycler(color=plt.get_cmap("tab20").colors[::2] +
                                                       plt.get_cmap("tab20").colors[1::2]),
                         "svg.fonttype": "none", "svg.hashsalt": "memoryformer", "font.size": 7})
    end = time.time()
    begin = cluster.value("min(min_over_time(timestamp(up)[6h:5s]))")
    for name, board in dashboards.boards().items():
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 2
        width, height = dashboards.GRID_COLUMNS * CELL[0], rows * CELL[1]
        figure = plt.figure(figsize=(width, height))
        figure.text(0.01, 1 - 0.6 / rows, board["title"], fontsize=13, weight="bold", va="center")
        for panel in board["panels"]:
            box = panel["gridPos"]
            left, top = box["x"] / dashboards.GRID_COLUMNS, 1 - (box["y"] + 1.5) / rows
            title = panel["title"].replace("$layer", layer)
            figure.text(left + 0.01, top - 0.4 / rows, title, fontsize=8, weight="bold", va="center")
            if panel["type"] == "row":
                continue
            wide = box["w"] / dashboards.GRID_COLUMNS
            plain = panel["type"] != "timeseries"
            axes = figure.add_axes((left + 0.045, top - (box["h"] - 1.3) / rows,
                                    wide - (0.06 if plain else 0.16), (box["h"] - 2.2) / rows))
            axes.tick_params(labelsize=6)
            if panel["type"] == "stat":
                draw_stat(axes, panel, cluster, layer)
            elif panel["type"] == "barchart":
                draw_bars(axes, panel, cluster, begin, end, layer)
            else:
                draw_lines(axes, panel, cluster, begin, end)
        file = os.path.join(folder, name.replace(".json", ".svg"))
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)
        shorten(file)
        print(f"{file}: {os.path.getsize(file) // 1024} KiB")


def main() -> None:
    """Command line; see the top of the file."""
    import watch

    parser = argparse.ArgumentParser()
    parser.add_argument("prometheus", help="its address, as http://127.0.0.1:9090")
    parser.add_argument("folder", help="where the pictures are written")
    parser.add_argument("--layer", default=watch.LAYER, help="of which hits by bucket are drawn")
    flags = parser.parse_args()
    draw(watch.Prometheus(flags.prometheus), flags.folder, flags.layer)


if __name__ == "__main__":
    main()
