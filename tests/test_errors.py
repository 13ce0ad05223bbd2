"""Texts and exit statuses of errors."""

from __future__ import annotations

import pytest

from cifarlab import recipe
from cifarlab.errors import CifarlabError, Interrupted, UsageError, is_out_of_memory, meant, nearest, one_line, unknown
from cifarlab.recipes.recipe import keys


def test_exit_statuses() -> None:
    assert (CifarlabError("x").status, UsageError("x").status) == (1, 2)
    assert (Interrupted("x", 2).status, Interrupted("x", 15).status) == (130, 143)


def test_the_nearest_name_is_found_whatever_the_case() -> None:
    assert nearest("Keras6", ["keras4", "keras6"]) == "keras6"
    assert nearest("xyz", ["keras4"]) is None and nearest("", ["folder:"]) is None
    assert str(unknown("recipe", "karas6", ["keras6"])) == "unknown recipe 'karas6': did you mean 'keras6'?"
    assert str(unknown("class", "xyz", ["cat", "dog"])) == "unknown class 'xyz': it may be cat, dog"
    assert str(unknown("run", "a", [])) == "unknown run 'a': there is no run"


def test_other_words_and_last_words_of_names_are_understood() -> None:
    assert nearest("gpu", ["auto", "cpu", "cuda"]) == "cuda" and nearest("GPU", ["cpu"]) == "cpu"
    names = keys()
    meanings = {"lr": "learning_rate", "dropout": "input_dropout", "flip": "augment.flip", "rate": "learning_rate"}
    for word, key in (meanings | {"smoothing": "label_smoothing", "augment-flip": "augment.flip"}).items():
        assert nearest(word, names) == key
    assert meant("drop", names) == "drop" and meant("epoch", names) is None


def test_a_stopped_command_says_how_to_continue() -> None:
    stopped = Interrupted("stopped by SIGINT, epoch 3 is saved", 2).with_restart_hint()
    assert (
        str(stopped) == "stopped by SIGINT, everything is saved: the same command continues" and stopped.status == 130
    )


def test_memory_errors_are_recognised() -> None:
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert not is_out_of_memory(RuntimeError("other"))


def test_one_line_has_no_breaks() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    plain = r"red [31mand \udcff over"  # without what would steer a terminal
    assert one_line("red \x1b[31mand \udcff over\u200b") == plain


def test_messages_of_pydantic_are_in_the_words_of_users() -> None:
    for settings, text in (
        ({"batch_size": "abc"}, "batch_size should be a whole number, got 'abc'"),
        ({"batch_size": 1.5}, "batch_size should be a whole number, got 1.5"),
        ({"augment.flip": "maybe"}, "augment.flip should be true or false, got 'maybe'"),
        ({"merge": 3}, "merge should be a table, got 3"),
        ({"drop": 3}, "drop should be a list, got 3"),
    ):
        with pytest.raises(UsageError) as raised:
            recipe("lenet5", **settings)
        assert str(raised.value) == f"recipe 'lenet5': {text}"
