"""The words of errors."""

from __future__ import annotations

from cifarlab.errors import CifarlabError, Interrupted, UsageError, nearest, one_line, unknown


def test_statuses_are_the_contracts() -> None:
    assert (CifarlabError("x").status, UsageError("x").status) == (1, 2)
    assert (Interrupted("x", 2).status, Interrupted("x", 15).status) == (130, 143)


def test_the_nearest_name_is_found_whatever_the_case() -> None:
    assert nearest("Keras6", ["keras4", "keras6"]) == "keras6"
    assert nearest("xyz", ["keras4"]) is None
    assert str(unknown("recipe", "karas6", ["keras6"])) == "unknown recipe 'karas6': did you mean 'keras6'?"
    assert str(unknown("class", "xyz", ["cat", "dog"])) == "unknown class 'xyz': it may be cat, dog"
    assert str(unknown("run", "a", [])) == "unknown run 'a': there is none"


def test_one_line_has_no_breaks() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("red \x1b[31mand \udcff over\u200b") == "red [31mand  over"  # what no terminal should get
