"""When a training ends: all epochs are done, none has improved for long enough, or the time budget is spent."""

from collections.abc import Sequence

from cifarlab.recipes import Recipe
from cifarlab.runs.record import EpochRow

FEW_VALIDATION_IMAGES = 100  # below, an image is more than a percentage point, and the best epoch is mostly luck
FALLING = ("cosine", "linear", "one-cycle")  # schedules that end at 0, so that the last weights have settled


def chooses_by_validation(recipe: Recipe, validation_images: int) -> bool:
    """Return True if the best epoch is kept, False if the last is, because so few images would choose by luck."""
    is_luck = validation_images < FEW_VALIDATION_IMAGES and recipe.schedule in FALLING and not recipe.patience
    return recipe.keep == "best-of-few" or (recipe.keep == "best" and not is_luck)


def best_epoch(history: Sequence[EpochRow]) -> EpochRow | None:
    """Return the epoch of the highest validation accuracy, among equals of the lowest loss; None before the first."""
    return max(history, key=lambda row: (row.validation_accuracy, -row.validation_loss), default=None)


def is_out_of_patience(recipe: Recipe, history: Sequence[EpochRow]) -> bool:
    """Return True if validation accuracy has not improved for `recipe.patience` epochs; 0 never stops early."""
    first_best = max(history, key=lambda row: row.validation_accuracy, default=None)
    return recipe.patience > 0 and first_best is not None and len(history) - first_best.epoch >= recipe.patience
