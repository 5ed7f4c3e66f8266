"""The checks of tests/compose/run.sh on a cluster that docker-compose has just started: what people do with
it, seen through its own Prometheus."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import dashboards

DEADLINE = 240  # seconds for any one thing to happen
LAYER = "blocks.0.qkv"  # that the bars of the buckets' dashboard are asked for


class Prometheus:
    """What a Prometheus at an address answers."""

    def __init__(self, prometheus: str) -> None:
        self.prometheus = prometheus

    def api(self, path: str, **query: str) -> dict:
        url = f"{self.prometheus}/api/v1/{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def series(self, expr: str) -> list[dict]:
        return self.api("query", query=expr)["result"]

    def value(self, expr: str) -> float:
        """Of the only series; NaN if there is none (yet)."""
        try:
            found = self.series(expr)
        except OSError:
            return float("nan")
        return float(found[0]["value"][1]) if found else float("nan")


class Cluster(Prometheus):
    """The containers of docker-compose beside it."""

    def __init__(self, compose: str, project: str, env_file: str, prometheus: str) -> None:
        super().__init__(prometheus)
        self.compose = [*compose.split(), "-p", project, "--env-file", env_file]

    def run(self, *command: str) -> str:
        done = subprocess.run([*self.compose, *command], capture_output=True, text=True, check=False,
                              timeout=DEADLINE)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(self.compose + list(command))}: {done.stderr}")
        return done.stdout

    def containers(self, service: str) -> list[str]:
        return self.run("ps", "-q", service).split()

    def state(self, container: str) -> dict:
        shown = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True).stdout
        return json.loads(shown)[0]

    def kill(self, container: str) -> None:
        """The process inside, as a crash would: what `docker kill` ends is not started again."""
        state = self.state(container)
        pid = state["State"]["Pid"]
        try:
            with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
                here = state["Id"] in file.read()
        except OSError:
            here = False
        if pid <= 1 or not here:
            raise SystemExit(f"FAILED: the engine's process {pid} is not one of this machine; run this beside the engine")
        os.kill(pid, signal.SIGKILL)


def wait_for(what: str, reached) -> None:
    begin = time.monotonic()
    while not reached():
        if time.monotonic() - begin > DEADLINE:
            raise SystemExit(f"FAILED: not within {DEADLINE} s: {what}")
        time.sleep(1)
    print(f"{time.monotonic() - begin:6.1f} s  {what}", flush=True)


def step_goes_on(cluster: Cluster, what: str, steps: int = 5) -> None:
    """From wherever it is, which may be behind where it was."""
    begin = cluster.value("max(mf_step)")
    lowest = [begin]

    def reached() -> bool:
        now = cluster.value("max(mf_step)")
        if now == now:
            lowest[0] = now if lowest[0] != lowest[0] else min(lowest[0], now)
        return now >= lowest[0] + steps

    wait_for(what, reached)


def check_dashboards(cluster: Cluster) -> int:
    """Every query of every panel returns data, NaN included, but those of embeddings, which the language model has
    none of. Returns how many there are."""
    queries, empty = 0, []
    for name, board in dashboards.boards().items():
        for panel in dashboards.panels(board):
            for target in panel["targets"]:
                expr = dashboards.fill_in(target["expr"], LAYER, "1h")
                queries += 1
                of_embeddings = "mf_keys_" in expr or "mf_rows_expired" in expr
                if not cluster.series(expr) and not of_embeddings:
                    empty.append(f"{name}: {panel['title']}: {expr}")
    for line in empty:
        print(f"NO DATA: {line}")
    if empty:
        raise SystemExit(f"FAILED: {len(empty)} of {queries} queries return nothing")
    return queries


def check_rules(cluster: Cluster) -> int:
    rules = [rule for group in cluster.api("rules")["groups"] for rule in group["rules"]]
    bad = [f"{rule['name']}: {rule.get('lastError', rule['health'])}" for rule in rules if rule["health"] != "ok"]
    if bad:
        raise SystemExit("FAILED: alert rules: " + "; ".join(bad))
    return len(rules)


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--compose", "--project", "--env-file", "--prometheus"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--picture", help="afterwards, draw the dashboards into this folder")
    parser.add_argument("--minutes", type=float, default=8, help="of more training before that")
    flags = parser.parse_args()
    cluster = Cluster(flags.compose, flags.project, flags.env_file, flags.prometheus)

    wait_for("both servers are scraped", lambda: cluster.value('sum(up{job="pserver"})') == 2)
    wait_for("training makes progress", lambda: cluster.value("max(mf_step)") >= 10)
    cluster.run("up", "-d", "--no-recreate", "--scale", "worker=3", "worker")
    wait_for("--scale worker=3: three workers are live", lambda: cluster.value("max(mf_workers_live)") == 3)
    wait_for("every target is up", lambda: cluster.value("count(up == 1)") == 5 and
             not cluster.series("up == 0"))
    before = cluster.value('max(mf_recoveries_total{job="pserver"})')
    cluster.kill(cluster.containers("pserver-1")[0])
    wait_for("a killed server is back and all went back to a common snapshot",
             lambda: cluster.value('min(mf_recoveries_total{job="pserver",instance="pserver-0"})') > before)
    step_goes_on(cluster, "training goes on after that")
    worker = cluster.containers("worker")[0]
    started = cluster.state(worker)["State"]["StartedAt"]
    cluster.kill(worker)
    step_goes_on(cluster, "a worker was killed, and training goes on")
    wait_for("it is back", lambda: cluster.state(worker)["State"]["Running"] and
             cluster.state(worker)["State"]["StartedAt"] != started)
    wait_for("three workers are live, and scraped", lambda: cluster.value("max(mf_workers_live)") == 3 and
             cluster.value('sum(up{job="worker"})') == 3)
    # Rates need two samples, snapshots and evaluations a few steps.
    wait_for("something was evaluated and saved since",
             lambda: bool(cluster.series("mf_train_val_loss") and
                          cluster.value('min(rate(mf_snapshot_seconds_count{job="pserver"}[15m]))') > 0))
    time.sleep(12)
    print(f"{check_dashboards(cluster)} dashboard queries return data")
    print(f"{check_rules(cluster)} alert rules are evaluated")
    firing = {a["labels"]["alertname"] for a in cluster.api("alerts")["alerts"] if a["state"] == "firing"}
    if firing:
        raise SystemExit(f"FAILED: alerts on a healthy run: {sorted(firing)}")
    print("no alert fires")
    if flags.picture:
        begin = time.monotonic()
        while time.monotonic() - begin < 60 * flags.minutes:
            print(f"  until the picture {flags.minutes - (time.monotonic() - begin) / 60:.1f} min, step "
                  f"{cluster.value('max(mf_step)'):.0f}", flush=True)
            time.sleep(20)
        import picture  # needs matplotlib, which only this does
        picture.draw(cluster, flags.picture, LAYER)


if __name__ == "__main__":
    sys.exit(main())
