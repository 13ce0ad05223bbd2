"""Augmentation policies: every operation compared with Pillow, and what is drawn with the published definitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from cifarlab import Data, Recipe, UsageError
from cifarlab.data.augment import augment as augmented
from cifarlab.data.augment import distort, operations, policies
from cifarlab.data.augment.mixing import mix
from cifarlab.recipes import Augment, load


@pytest.fixture(scope="module")
def images(cifar10: Data) -> torch.Tensor:
    return torch.from_numpy(np.array(cifar10.train.images[:40])).float()


def by_pillow(images: torch.Tensor, change: Callable[[Image.Image, float], Image.Image], strengths: Any) -> np.ndarray:
    pictures = [Image.fromarray(image.permute(1, 2, 0).byte().numpy()) for image in images]
    changed = [np.array(change(picture, float(each))) for picture, each in zip(pictures, strengths, strict=True)]
    return np.stack(changed).transpose(0, 3, 1, 2)


def moved(picture: Image.Image, *matrix: float) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix)


PILLOW = {
    "brightness": lambda picture, change: ImageEnhance.Brightness(picture).enhance(1 + change),
    "color": lambda picture, change: ImageEnhance.Color(picture).enhance(1 + change),
    "contrast": lambda picture, change: ImageEnhance.Contrast(picture).enhance(1 + change),
    "sharpness": lambda picture, change: ImageEnhance.Sharpness(picture).enhance(1 + change),
    "posterize": lambda picture, bits: ImageOps.posterize(picture, int(bits)),
    "solarize": lambda picture, threshold: ImageOps.solarize(picture, threshold),
    "autocontrast": lambda picture, _: ImageOps.autocontrast(picture),
    "equalize": lambda picture, _: ImageOps.equalize(picture),
    "invert": lambda picture, _: ImageOps.invert(picture),
    "identity": lambda picture, _: picture,
    "shear-x": lambda picture, slope: moved(picture, 1, slope, 0, 0, 1, 0),
    "shear-y": lambda picture, slope: moved(picture, 1, 0, 0, slope, 1, 0),
    "translate-x": lambda picture, pixels: moved(picture, 1, 0, int(pixels), 0, 1, 0),
    "translate-y": lambda picture, pixels: moved(picture, 1, 0, 0, 0, 1, int(pixels)),
    "rotate": lambda picture, degrees: picture.rotate(degrees),
}
STRENGTHS: dict[str, tuple[float, float]] = {
    "posterize": (1, 8),
    "solarize": (0, 255),
    "rotate": (-30, 30),
    "translate-x": (-14, 14),
}
STRENGTHS |= {"translate-y": (-14, 14), "shear-x": (-0.3, 0.3), "shear-y": (-0.3, 0.3)}


@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_operations_are_pillows(name: str, images: torch.Tensor) -> None:
    low, high = STRENGTHS.get(name, (-0.9, 0.9))
    strengths = torch.linspace(low, high, len(images))
    strengths = strengths.round() if name in ("posterize", "translate-x", "translate-y") else strengths
    found = policies.OPERATIONS[name](images, strengths).numpy()
    expected = by_pillow(images, PILLOW[name], strengths)
    assert found.shape == expected.shape and ((found >= 0) & (found <= 255) & (found == found.round())).all()
    different = np.abs(found - expected)
    if name in ("shear-x", "shear-y", "rotate"):  # Pillow computes places in steps of 1/65536 of a pixel
        assert (different > 0).mean() < 0.005
    else:
        assert different.max() <= 1 and (different > 0).mean() < 0.002


def test_hue_turns_colours_round_the_circle(images: torch.Tensor) -> None:
    red, green = torch.tensor([255.0, 0, 0]), torch.tensor([0.0, 255, 0])
    patch = red.view(1, 3, 1, 1).expand(2, 3, 4, 4)
    turned = operations.hue(patch, torch.tensor([1 / 3, 1.0]))
    assert turned[0, :, 0, 0].equal(green) and turned[1].equal(patch[1])
    assert torch.equal(operations.hue(images, torch.zeros(len(images))), images)
    for turn in (-0.2, 0.45):
        result = operations.hue(images, torch.full((len(images),), turn))
        assert (result.amax(1) - images.amax(1)).abs().max() <= 1  # HSV's value stays


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    seen: list[tuple[str, float]] = []

    def note(name: str, operation: Any) -> Any:
        def noted(images: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
            seen.extend((name, float(each)) for each in strengths)
            result: torch.Tensor = operation(images, strengths)
            return result

        return noted

    monkeypatch.setattr(policies, "OPERATIONS", {name: note(name, each) for name, each in policies.OPERATIONS.items()})
    return seen


BLANK = torch.zeros(7_000, 3, 4, 4)


def test_randaugment_draws_all_operations_alike_at_one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    torch.manual_seed(0)
    policies.rand_augment(torch.zeros(7_000, 3, 32, 32), 2, 9)
    counts = Counter(name for name, _ in seen)
    assert len(counts) == 14 and "invert" not in counts and sum(counts.values()) == 14_000
    assert all(880 < count < 1_120 for count in counts.values())
    share = 9 / 30
    strengths = {name: {round(value, 4) for each, value in seen if each == name} for name in counts}
    assert strengths["rotate"] == {-9.0, 9.0} and strengths["shear-x"] == {-0.09, 0.09}
    assert strengths["translate-y"] == {round(sign * share * 32 * 150 / 331, 4) for sign in (-1, 1)}
    assert strengths["color"] == {-0.27, 0.27} and strengths["solarize"] == {178.5}
    assert strengths["posterize"] == {round(8 - 4 * share, 4)}  # which is rounded to 7 bits
    assert abs(sum(value > 0 for name, value in seen if name == "rotate") / counts["rotate"] - 0.5) < 0.06


def test_trivialaugment_draws_one_operation_at_any_level(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    torch.manual_seed(0)
    policies.trivial_augment(BLANK)
    counts = Counter(name for name, _ in seen)
    assert len(counts) == 14 and sum(counts.values()) == 7_000 and all(420 < count < 580 for count in counts.values())
    rotations = {round(value, 3) for name, value in seen if name == "rotate"}
    assert rotations == {round(sign * 135 * level / 30, 3) for sign in (-1, 1) for level in range(31)}
    assert {
        name: max(value for each, value in seen if each == name) for name in ("shear-x", "translate-x", "color")
    } == {
        "shear-x": pytest.approx(0.99),
        "translate-x": 32,
        "color": pytest.approx(0.99),
    }
    assert min(value for name, value in seen if name == "posterize") == 2


def test_autoaugment_draws_its_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    torch.manual_seed(0)
    policies.auto_augment(torch.zeros(25_000, 3, 32, 32))
    counts = Counter(name for name, _ in seen)
    expected = Counter[str]()
    for pair in policies.AUTOAUGMENT:
        for name, probability, _ in pair:
            expected[name] += round(1000 * probability)
    assert len(policies.AUTOAUGMENT) == 25
    for name, count in expected.items():
        assert abs(counts[name] - count) < 5 * count**0.5 + 1, name
    assert counts["identity"] == 50_000 - sum(count for name, count in counts.items() if name != "identity")
    assert {round(value, 3) for name, value in seen if name == "translate-x"} == {
        round(sign * level / 9 * 150 / 331 * 32, 3) for sign in (-1, 1) for level in (8, 9)
    }


def test_erasing_takes_rectangles_of_the_published_sizes() -> None:
    torch.manual_seed(0)
    ones = torch.ones(4_000, 3, 32, 32)
    erased = augmented(ones, Augment(erase=0.5)) == 0
    assert erased[:, 0].equal(erased[:, 1]) and 0.46 < erased.flatten(1).any(1).float().mean() < 0.54
    holes = erased[:, 0][erased[:, 0].flatten(1).any(1)]
    areas = holes.flatten(1).float().mean(1)
    heights, widths = holes.any(2).sum(1), holes.any(1).sum(1)
    assert (heights * widths == holes.flatten(1).sum(1)).all()  # they are rectangles
    assert 0.01 < areas.min() < 0.03 and 0.3 < areas.max() < 0.37 and 0.16 < areas.mean() < 0.19
    ratios = heights / widths
    assert ratios.min() < 0.4 and ratios.max() > 2.5 and 0.8 < (ratios.log().mean()).exp() < 1.25


def test_jitter_stays_in_its_range_and_is_drawn_for_each_image() -> None:
    torch.manual_seed(0)
    flat = torch.full((2_000, 3, 2, 2), 100, dtype=torch.uint8)
    changed = distort(flat, Augment(brightness=0.3))
    values = changed[:, 0, 0, 0].float()
    assert 70 <= values.min() < 72 and 127 < values.max() <= 130 and abs(values.mean() - 99.5) < 1.5
    assert changed.dtype == torch.uint8 and distort(flat, Augment()) is flat
    assert (distort(flat, Augment(brightness=5.0)) == 0).any()  # never below 0


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_mixing_keeps_the_share_of_the_own_label(key: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(64)
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    shares = []
    for _ in range(200):
        mixed = mix(images, labels, Augment(mixup=float(key == "mixup"), cutmix=float(key == "cutmix")))
        assert mixed is not None
        own, others = labels.float(), mixed.others.float()
        assert torch.allclose(mixed.images.mean((1, 2, 3)), mixed.share * own + (1 - mixed.share) * others, atol=1e-3)
        if key == "cutmix":
            pixels = mixed.images[:, 0]
            assert ((pixels == own[:, None, None]) | (pixels == others[:, None, None])).all()
        shares.append(mixed.share)
    low, mean = (0.1, 0.5) if key == "mixup" else (0.4, 0.7)  # rectangles are cut off at the border
    assert min(shares) < low and max(shares) > 0.9 and abs(np.mean(shares) - mean) < 0.1
    assert mix(images, labels, Augment()) is None


def test_with_both_each_batch_is_mixed_in_one_way() -> None:
    torch.manual_seed(0)
    labels = torch.arange(8)
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    whole = [mix(images, labels, Augment(mixup=1.0, cutmix=1.0)) for _ in range(60)]
    blended = sum(bool((each.images % 1).any()) for each in whole if each is not None)
    assert 15 < blended < 45


@pytest.mark.parametrize(
    "settings",
    [
        {"augment.policy": "randaugment"},
        {"augment.policy": "trivialaugment", "augment.erase": 0.3},
        {"augment.policy": "autoaugment", "augment.hue": 0.1, "augment.contrast": 0.2},
        {"augment.mixup": 0.2, "augment.cutmix": 1.0, "class_weights": "balanced", "label_smoothing": 0.1},
    ],
)
def test_trainings_learn_and_repeat(settings: dict[str, Any], small: Recipe, tmp_path: Any) -> None:
    import cifarlab

    runs = [cifarlab.train(small.changed(settings), runs=tmp_path, name=name, quiet=True) for name in ("a", "b")]
    assert runs[0].results["test_accuracy"] == runs[1].results["test_accuracy"] > 0.2
    assert np.array_equal(runs[0].predictions[0], runs[1].predictions[0])  # type: ignore[index]


@pytest.mark.parametrize("setting", [{"augment.policy": "auto"}, {"augment.magnitude": 31}, {"augment.hue": 0.6}])
def test_unknown_policies_and_levels_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="augment"):
        load("lenet5").changed(setting)


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment", "trivialaugment"])
def test_gray_images_change_as_three_equal_channels_do(images: torch.Tensor, policy: str) -> None:
    gray = images[:, :1].byte()
    settings = Augment.model_validate(
        {"policy": policy, "brightness": 0.2, "contrast": 0.3, "saturation": 0.4, "hue": 0.1}
    )
    changed = []
    for each in (gray, gray.expand(-1, 3, -1, -1)):
        torch.manual_seed(0)
        changed.append(distort(each, settings))
    assert changed[0].shape[1] == 1 and (changed[0] == changed[1]).all() and not torch.equal(changed[0], gray)
