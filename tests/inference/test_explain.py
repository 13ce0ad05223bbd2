"""Heat maps, compared with Captum, with networks whose heat maps are known, and on every registered network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam, LayerGradientXActivation, Occlusion
from torch import Tensor, nn

from cifarlab.errors import UsageError
from cifarlab.inference.classifier import Classifier, make_classifier
from cifarlab.inference.explain import first_kernels, grad_cam, heat_maps, occlusion
from every_network import networks

CLASSES = tuple("abcdefghij")


def corner_detector() -> Classifier:
    """Class 1 is how bright the top left quarter is, class 0 how bright the bottom right one."""
    classifier = make_classifier("lenet5-3x3", {}, ("a", "b"), 32, "unit")
    maps = nn.Conv2d(3, 1, 1, bias=False)
    dense = nn.Linear(64, 2, bias=False)
    nn.init.ones_(maps.weight)
    places = torch.zeros(2, 8, 8)
    places[0, 4:, 4:] = places[1, :4, :4] = 1
    dense.weight.data = places.flatten(1)
    network = nn.Sequential(maps, nn.AvgPool2d(4), nn.Flatten(), dense)
    return Classifier(network, classifier.preprocess, ("a", "b"), 32, "corner")


def lit(y: int, x: int) -> np.ndarray:
    image = np.zeros((3, 32, 32), dtype=np.uint8)
    image[:, y : y + 8, x : x + 8] = 250
    return image


def test_both_find_what_a_known_network_looks_at() -> None:
    images, targets = np.stack([lit(4, 4), lit(20, 20)]), np.array([1, 0])
    for method in (grad_cam, occlusion):
        heat = method(corner_detector(), images, targets)
        assert heat.shape == (2, 32, 32) and heat.dtype == np.float32
        assert heat.max(axis=(1, 2)) == pytest.approx([1, 1]) and heat.min() >= 0
        assert heat[0, 8, 8] > 0.5 > heat[0, 24, 24] and heat[1, 24, 24] > 0.5 > heat[1, 8, 8], method.__name__


def test_places_that_a_class_does_not_depend_on_stay_dark() -> None:
    both = np.maximum(lit(4, 4), lit(20, 20))[None]
    heat = grad_cam(corner_detector(), both, np.array([1]))
    assert heat[0, 8, 8] > 0.5 and heat[0, 24, 24] == 0


def test_a_convolutions_bare_output_is_not_explained() -> None:
    detector = corner_detector()
    lighter = nn.Conv2d(1, 1, 1)
    for weight in lighter.parameters():
        nn.init.ones_(weight)  # its output is bright where its input is dark, too
    layers = list(detector.network.children())
    network = nn.Sequential(*layers[:2], lighter, *layers[2:])
    heat = grad_cam(Classifier(network, detector.preprocess, ("a", "b"), 32, "x"), lit(8, 8)[None], np.array([1]))
    assert heat[0, 12, 12] > 0.9 and heat[0, 2, 2] == 0


def test_nothing_speaks_for_a_class_that_nothing_lights() -> None:
    heat = grad_cam(corner_detector(), np.zeros((1, 3, 32, 32), dtype=np.uint8), np.array([1]))
    assert not heat.any()


def small_network() -> Classifier:
    """A network with random weights whose last maps are not negative: 8 maps of 8x8 places."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(512, 3))
    preprocess = make_classifier("lenet5-3x3", {}, ("a", "b", "c"), 32, "unit").preprocess
    return Classifier(nn.Sequential(*layers).eval(), preprocess, ("a", "b", "c"), 32, "small")


def scaled(heat: Tensor) -> np.ndarray:
    """Heat maps [n, 1, h, w] with their negative values cut off and the largest of each image at 1."""
    positive = heat.detach().relu()[:, 0]
    return np.asarray(positive / positive.amax((1, 2), keepdim=True))


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
TARGETS = np.array([2, 0, 1])


def test_grad_cam_equals_captums_gradient_times_activation() -> None:
    classifier = small_network()
    *_, maps, _, _ = classifier.network.children()
    method = LayerGradientXActivation(classifier.network, maps)
    products = method.attribute(classifier.preprocess(torch.from_numpy(IMAGES)), torch.from_numpy(TARGETS))
    heat = products.relu().sum(1, keepdim=True)  # maps >= 0, so that only positive gradients remain
    expected = scaled(LayerAttribution.interpolate(heat, (32, 32), "bilinear"))
    np.testing.assert_allclose(grad_cam(classifier, IMAGES, TARGETS), expected, atol=1e-5)


def test_grad_cam_equals_captums_grad_cam_where_a_map_has_one_positive_weight() -> None:
    classifier = small_network()
    head = nn.Linear(8, 3)
    nn.init.uniform_(head.weight, 0, 1)  # with the mean over places before it, one weight for all places of a map
    pooled = nn.Sequential(*list(classifier.network.children())[:3], nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    classifier = Classifier(pooled, classifier.preprocess, classifier.classes, 32, "pooled")
    maps = LayerGradCam(pooled, pooled[2]).attribute(
        classifier.preprocess(torch.from_numpy(IMAGES)), torch.from_numpy(TARGETS), relu_attributions=True
    )
    expected = scaled(LayerAttribution.interpolate(maps, (32, 32), "bilinear"))
    np.testing.assert_allclose(grad_cam(classifier, IMAGES, TARGETS), expected, atol=1e-5)


def test_occlusion_equals_captums() -> None:
    classifier = small_network()
    images = torch.from_numpy(IMAGES).float()
    colours = images.mean((2, 3), keepdim=True).round().expand_as(images)
    heat = Occlusion(lambda batch: classifier.logits(batch.to(torch.uint8)).softmax(1)).attribute(
        images, (3, 8, 8), (3, 4, 4), colours, torch.from_numpy(TARGETS)
    )
    np.testing.assert_allclose(occlusion(classifier, IMAGES, TARGETS), scaled(heat[:, :1]), atol=1e-4)


@pytest.mark.parametrize("model", networks())
def test_every_network_can_be_explained(model: str) -> None:
    torch.manual_seed(0)
    classifier = make_classifier(model, {}, CLASSES, 32, "unit")
    classifier.network.train()
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    before = {key: value.clone() for key, value in classifier.network.state_dict().items()}
    for method in (grad_cam, occlusion):
        heat = method(classifier, images, np.array([3, 4]))
        assert heat.shape == (2, 32, 32) and np.isfinite(heat).all() and 0 <= heat.min() <= heat.max() <= 1
        alone = method(classifier, images[1:], np.array([4]))
        assert alone == pytest.approx(heat[1:], abs=1e-3)  # other images of a batch change nothing
    assert classifier.network.training
    assert all(torch.equal(value, before[key]) for key, value in classifier.network.state_dict().items())
    assert all(weight.grad is None for weight in classifier.network.parameters())


def test_the_first_kernels_are_those_that_see_colours() -> None:
    classifier = make_classifier("keras6", {}, CLASSES, 32, "unit")
    kernels = first_kernels(classifier)
    assert kernels is not None and kernels.shape == (32, 3, 3, 3)
    assert np.array_equal(kernels, classifier.network.state_dict()["0.weight"].numpy())


def test_a_network_without_maps_has_no_grad_cam() -> None:
    plain = corner_detector()
    dense = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), plain.preprocess, ("a", "b"), 32, "dense")
    with pytest.raises(UsageError, match="dense has no layer with feature maps of 4x4 positions"):
        grad_cam(dense, np.stack([lit(0, 0)]), np.array([0]))
    assert heat_maps(dense, np.stack([lit(0, 0)]), np.array([0])).keys() == {"occlusion"}
    assert occlusion(dense, np.stack([lit(0, 0)]), np.array([0])).shape == (1, 32, 32)
