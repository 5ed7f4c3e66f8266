"""The dashboards of deploy/grafana as data: boards, their panels, and the queries as Grafana sends them."""

import json
import os

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "grafana", "dashboards")

GRID_COLUMNS = 24


def boards() -> dict[str, dict]:
    """By file name."""
    found = {}
    for name in sorted(os.listdir(FOLDER)):
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            found[name] = json.load(file)
    return found


def panels(board: dict) -> list[dict]:
    """Those that show something: rows are only headlines."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def fill_in(expr: str, layer: str, span: str) -> str:
    """A query with what Grafana puts for its variables: the chosen layer and the time that is shown, as "1h"."""
    return expr.replace("$layer", layer).replace("$__range", span)
