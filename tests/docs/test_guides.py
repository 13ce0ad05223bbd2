"""The commands of the pages, run as a reader would, print what the pages show, but for numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from write_outputs import PAGES, fences, form, outputs

LONG = (
    "README",
    "tutorial",
    "clusters",
    "compare",
    "own-network",
    "study",
    "tune",
)  # pages that train networks or processes


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.stem in LONG else []) for page in PAGES],
    ids=lambda path: path.stem,
)
def test_commands_print_what_the_page_shows(page: Path) -> None:
    for command, shown, real in outputs(page):
        assert form(real) == form(shown), f"{command}\nwrite it anew with: python docs/write_outputs.py {page}"


def test_few_commands_are_left_out() -> None:
    every = [fence for page in PAGES for fence in fences(page)]
    left_out = [fence for fence in every if not fence.runs]
    assert len(every) > 25
    assert len(left_out) <= 6
    assert all(len(fence.note) > len("not run: ") for fence in left_out)


def test_another_form_is_noticed() -> None:
    shown = "epoch 1/3  loss 2.1455  accuracy 0.4008  3,227 images/s  0 s\n"
    assert form(shown) == form("epoch 2/3  loss 1.1     accuracy 0.5  27 images/s  10 s\n")
    assert form(shown) != form("epoch 1/3  loss 2.1455  3,227 images/s  0 s\n")
