"""The documentation: generated pages are up to date, the site builds strictly, links and commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from write_results import RECORDS, make_page

from cifarlab.cli import app
from cifarlab.experiments.results.records import read_records

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("name", ["commands", "recipe_keys", "networks", "data_sets"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    command = [sys.executable, str(ROOT / "docs" / f"write_{name}.py"), "--print"]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = ROOT / "docs" / "reference" / f"{name.replace('_', '-')}.md"
    assert page.read_text() == fresh, "write it anew with: make docs"


def test_the_results_page_is_made_of_the_records() -> None:
    records = [record for path in sorted(RECORDS.glob("*.json")) for record in read_records(path)]
    page = ROOT / "docs" / "results.md"
    assert page.read_text() == make_page(records), "write it anew with: python docs/write_results.py"


def test_the_site_builds_without_a_warning_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(
            r'<(?:script|img|link rel="(?:stylesheet|icon)")[^>]*(?:src|href)="([^"]+)"', page.read_text()
        )
        assert loaded
        assert not [address for address in loaded if "://" in address], page.name


def test_links_outside_the_site_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())]
    assert len(links) > 3
    for page, link in links:
        assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"


def test_commands_in_the_pages_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *GUIDES]
    blocks = [block for page in pages for block in re.findall(r"^```.*?^```$", page.read_text(), re.M | re.S)]
    named = {name for block in blocks for name in re.findall(r"^(?:\$ )?cifarlab ([a-z-]+)", block, re.M)}
    assert len(named) > 15
    assert named <= get_command(app).commands.keys()  # type: ignore[attr-defined]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_guides_are_short_and_begin_with_a_command(guide: Path) -> None:
    text = guide.read_text()
    assert re.match(r"# .*\n\n(?:<!-- .* -->\n)?```console\n\$ ", text)
    assert len(text.split()) < 600


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_the_results_in_the_readme_are_those_of_the_pages() -> None:
    rows = re.findall(
        r"^\| `.*?\|.*?\| (\d\d\.\d\d)(?: ± (\d\.\d\d))? \(n = (\d+)\)", (ROOT / "README.md").read_text(), re.M
    )
    pages = (ROOT / "docs" / "results.md").read_text() + (ROOT / "docs" / "internals" / "speed.md").read_text()
    assert len(rows) > 4
    for mean, deviation, n in rows:
        written = (
            [f"{mean} (sd {deviation})", f"{mean}% | {deviation}% |"] if int(n) > 1 else [f"{mean}% | - | - | 1 |"]
        )
        assert any(text in pages for text in written), mean
