"""The lines of a benchmark that is a script: printed and written as report.cpp does it."""

import json


class Report:
    """Prints lines; with a path, also appends one JSON object a line to that file."""

    def __init__(self, json_path: str = "") -> None:
        self.json_path = json_path

    def line(self, name: str, value: float, unit: str, ratios: dict[str, float] | None = None,
             note: str = "") -> None:
        """`ratios`: how many times what is named the value is."""
        ratios = ratios or {}
        compared = ";".join(f" {ratio:5.2f} x {what}" for what, ratio in ratios.items())
        note = ("; " if ratios else "  ") + note if note else ""
        print(f"{name:<50} {value:11.1f} {unit:<9}{compared}{note}", flush=True)
        if self.json_path:
            with open(self.json_path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, "value": value, "unit": unit, "ratios": ratios}) + "\n")
