"""Writes docs/results.md from the records of full runs under docs/results/; or takes new records in.

    cifarlab reproduce relabel
    python docs/write_results.py runs/reproduce/relabel/records.json
    python docs/write_results.py                  # writes the page anew

A record is what `cifarlab.experiments.reproduce.record` keeps of a run. One of the same recipe, protocol, setting and
seed replaces the old one, unless that is longer. To keep both (a GPU does not give the same bits twice without
`--deterministic`), the second has a `start` of 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cifarlab import figures
from cifarlab.experiments import reproduce, results

DOCS = Path(__file__).parent
RECORDS = DOCS / "results"


def take_in(path: Path) -> None:
    """Sorts the records of a file into one file for each recipe."""
    for record in json.loads(path.read_text()):
        kept = RECORDS / f"{record['recipe'].replace('/', '-')}.json"
        old = json.loads(kept.read_text()) if kept.exists() else []
        others = [each for each in old if _order(each) != _order(record)]
        if any(_epochs(each) > _epochs(record) for each in old if each not in others):
            print(f"{path}: {kept.name} keeps a longer record of {record['protocol']} seed {record['seed']}")
            continue
        lines = [json.dumps(each) for each in sorted([*others, record], key=_order)]
        kept.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def _epochs(record: dict[str, Any]) -> int:
    return len(record["history"]["train_loss"])


def _order(record: dict[str, Any]) -> list[Any]:
    """By recipe, protocol, setting as these are planned, seed, and how often that was begun before."""
    setting = ["", *reproduce.SETTINGS].index(record["setting"])
    return [record["recipe"], record["protocol"], setting, record["seed"], record.get("start", 0)]


def page(records: list[dict[str, Any]]) -> str:
    """The page's text."""
    text = (RECORDS / "introduction.md").read_text()
    for table in results.tables(records):
        text += "\n" + results.markdown(table)
    for path in sorted(RECORDS.glob("*.md")):
        if path.name != "introduction.md":
            text += "\n" + path.read_text()
    return text


def main(paths: list[str]) -> None:
    """Takes records in, then writes page and pictures."""
    RECORDS.mkdir(exist_ok=True)
    for path in map(Path, paths):
        if not path.parent.name.endswith("-quick"):  # too few epochs to stand here
            take_in(path)
    records = [record for path in sorted(RECORDS.glob("*.json")) for record in json.loads(path.read_text())]
    (DOCS / "results.md").write_text(page(records))
    for name, figure in results.draw(records).items():
        (DOCS / "images" / f"{name}.svg").write_bytes(figures.to_bytes(figure, "svg"))


if __name__ == "__main__":
    main(sys.argv[1:])
