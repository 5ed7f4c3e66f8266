"""Goal: dashboards that a Grafana can load and people can read, about metrics that exist. What their queries return is
checked by tests/compose/run.sh, which has a Prometheus."""

import itertools
import os
import re
import unittest

import dashboards

METRICS = os.path.join(dashboards.FOLDER, "..", "..", "..", "docs", "METRICS.md")
# Links and bookmarks of users hold these.
UIDS = {"training.json": "mf-training", "buckets.json": "mf-buckets", "servers.json": "mf-servers"}


def overlap(one: dict, other: dict) -> bool:
    a, b = one["gridPos"], other["gridPos"]
    return (a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and
            a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"])


class Dashboards(unittest.TestCase):
    def setUp(self) -> None:
        self.boards = dashboards.boards()

    def test_uids_stay(self) -> None:
        self.assertEqual({name: board["uid"] for name, board in self.boards.items()}, UIDS)

    def test_every_panel_says_what_it_shows(self) -> None:
        for name, board in self.boards.items():
            self.assertTrue(board["title"] and board["description"], name)
            ids = [panel["id"] for panel in board["panels"]]
            self.assertEqual(len(ids), len(set(ids)), f"{name}: ids")
            for panel in dashboards.panels(board):
                with self.subTest(board=name, panel=panel["title"]):
                    self.assertTrue(panel["title"] and panel["description"])
                    self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                    self.assertEqual(panel["datasource"], {"type": "prometheus", "uid": "prometheus"})
                    self.assertTrue(panel["targets"])

    def test_panels_lie_side_by_side(self) -> None:
        for name, board in self.boards.items():
            for panel in board["panels"]:
                self.assertLessEqual(panel["gridPos"]["x"] + panel["gridPos"]["w"], dashboards.GRID_COLUMNS, name)
            for one, other in itertools.combinations(board["panels"], 2):
                self.assertFalse(overlap(one, other), f"{name}: {one['title']} and {other['title']}")

    def test_metrics_and_variables_exist(self) -> None:
        with open(METRICS, encoding="utf-8") as file:
            known = set(re.findall(r"^\| `(mf_\w+)`", file.read(), re.MULTILINE))
        self.assertGreater(len(known), 30)
        for name, board in self.boards.items():
            for panel in dashboards.panels(board):
                for target in panel["targets"]:
                    expr = target["expr"]
                    with self.subTest(board=name, query=expr):
                        used = re.findall(r"mf_\w+", expr)
                        self.assertTrue(used or "up{" in expr)
                        for metric in used:
                            self.assertIn(re.sub("_(bucket|sum|count)$", "", metric) if metric not in known else metric, known)
                        self.assertNotIn("$", dashboards.fill_in(expr, "layer", "1h"))


if __name__ == "__main__":
    unittest.main()
