"""Write docs/results.md from the records of full runs under docs/results/, or add new records first.

    cifarlab reproduce relabel
    python docs/write_results.py runs/reproduce/relabel/records.json
    python docs/write_results.py                  # only writes the page again

A new record replaces an old one of the same recipe, protocol, setting and seed, unless the old run is longer. To keep
both (a GPU does not give the same bits twice without `--deterministic`), give the second one a `start` of 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cifarlab import figures
from cifarlab.experiments.reproduce import SETTINGS
from cifarlab.experiments.results.pictures import draw
from cifarlab.experiments.results.records import Record, read_records, write_records
from cifarlab.experiments.results.tables import make_tables, to_markdown

DOCS = Path(__file__).parent
RECORDS = DOCS / "results"


def add_records(path: Path) -> None:
    """Add the records of a file to the file of each recipe."""
    for record in read_records(path):
        kept = RECORDS / f"{record.recipe.replace('/', '-')}.json"
        old = read_records(kept) if kept.exists() else []
        replaced = [other for other in old if identity(other) == identity(record)]
        if any(other.epochs > record.epochs for other in replaced):
            print(f"{path}: {kept.name} keeps a longer record of {record.protocol} seed {record.seed}")
            continue
        others = [other for other in old if other not in replaced]
        write_records(kept, sorted([*others, record], key=identity))


def identity(record: Record) -> tuple[str, str, int, int, int]:
    """Return what identifies a record, in the order of the files: settings as they are planned, then seeds."""
    setting = ["", *SETTINGS].index(record.setting)
    return record.recipe, record.protocol, setting, record.seed, record.start


def make_page(records: list[Record]) -> str:
    """Return the text of the page."""
    text = (RECORDS / "introduction.md").read_text()
    for table in make_tables(records):
        text += "\n" + to_markdown(table)
    for path in sorted(RECORDS.glob("*.md")):
        if path.name != "introduction.md":
            text += "\n" + path.read_text()
    return text


def main(paths: list[str]) -> None:
    """Add records, then write the page and its pictures."""
    RECORDS.mkdir(exist_ok=True)
    for path in map(Path, paths):
        if not path.parent.name.endswith("-quick"):  # too few epochs for this page
            add_records(path)
    records = [record for path in sorted(RECORDS.glob("*.json")) for record in read_records(path)]
    (DOCS / "results.md").write_text(make_page(records))
    for name, figure in draw(records).items():
        (DOCS / "images" / f"{name}.svg").write_bytes(figures.to_bytes(figure, "svg"))


if __name__ == "__main__":
    main(sys.argv[1:])
