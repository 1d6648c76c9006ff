"""Augmentation of images and targets."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from focalnets import open_dataset
from focalnets.data.loader import Loader
from focalnets.data.splits import Split
from focalnets.images import transforms
from focalnets.images.augment import Augmentation, erase, mix
from focalnets.images.decode import as_image, as_pixels
from focalnets.training.task import ImageClassification


def rng(seed=0):
    return np.random.default_rng(seed)


def make_image(height=40, width=60, mode="RGB"):
    """Image with a red ramp from left to right, a green ramp from top to bottom, and a blue square."""
    pixels = np.zeros((height, width, 3), "uint8")
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[height // 4 : height // 2, width // 4 : width // 2, 2] = 200
    return Image.fromarray(pixels).convert(mode)


def test_crop_box_draws_areas_and_aspect_ratios_in_range():
    generator = rng()
    boxes = np.array([transforms.crop_box(300, 400, (0.08, 1.0), generator) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 400
    assert bottom.max() <= 300
    area = (right - left) * (bottom - top) / (300 * 400)
    aspect = (right - left) / (bottom - top)
    assert 0.075 < area.min() < 0.12
    assert area.max() > 0.9
    assert 0.74 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < 1.36
    assert abs(np.mean((left + right) / 2) - 200) < 5, "not centered on average"
    # No random crop fits here, so the result is the central crop.
    assert transforms.crop_box(10, 1000, (0.9, 1.0), generator) == (493, 0, 506, 10)


def test_transform_with_random_resized_crop_returns_drawn_part_of_image():
    """The ramps show the position of the crop."""
    augmentation = Augmentation(random_resized_crop=(0.2, 0.5))
    opened = lambda smallest: make_image(400, 600)  # noqa: E731
    found = as_pixels(transforms.transform(opened, (32, 32), augmentation, rng(3)))
    left, top, right, bottom = transforms.crop_box(400, 600, (0.2, 0.5), rng(3))
    assert found.shape == (32, 32, 3)
    assert found[16, 0, 0] == pytest.approx(255 * left / 600, abs=5)
    assert found[16, -1, 0] == pytest.approx(255 * right / 600, abs=5)
    assert found[0, 16, 1] == pytest.approx(255 * top / 400, abs=5)
    assert found[-1, 16, 1] == pytest.approx(255 * bottom / 400, abs=5)


def test_transform_with_resize_crop_returns_random_crops_of_resized_image():
    augmentation = Augmentation(resize_crop=52)
    whole = as_pixels(make_image(32, 32).resize((52, 52), Image.Resampling.BILINEAR))
    places = set()
    for seed in range(60):
        found = as_pixels(
            transforms.transform(lambda _: make_image(32, 32), (48, 48), augmentation, rng(seed))
        )
        fits = [
            (y, x) for y in range(5) for x in range(5) if np.array_equal(whole[y : y + 48, x : x + 48], found)
        ]
        places.update(fits)
        assert fits
    assert len(places) > 15
    with pytest.raises(ValueError, match="at least the image size, 48"):
        transforms.transform(lambda _: make_image(), (48, 48), Augmentation(resize_crop=40), rng())


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_randaugment_operations_change_pixels_but_not_shape(mode):
    image = make_image(mode=mode)
    unchanged = []
    for index, operation in enumerate(transforms._OPERATIONS):
        weak, strong = (as_pixels(operation(image, level, 1)) for level in (0.0, 0.9))
        assert strong.shape == as_pixels(image).shape
        assert strong.dtype == np.uint8
        if np.array_equal(strong, as_pixels(image)):
            unchanged.append(index)
        if index not in (1, 2):  # autocontrast and equalize have no strength
            np.testing.assert_array_equal(weak, as_pixels(image), err_msg=f"operation {index} at strength 0")
    assert unchanged == ([0] if mode == "RGB" else [0, 6])  # 6 changes saturation, which gray images lack


def test_color_jitter_changes_brightness_within_bounds():
    flat = Image.new("RGB", (4, 4), (100, 100, 100))
    means = [
        as_pixels(transforms.transform(lambda _: flat, None, Augmentation(color_jitter=0.4), rng(i))).mean()
        for i in range(200)
    ]
    assert 58 <= min(means) < 65
    assert 135 < max(means) <= 141


def test_erase_replaces_one_rectangle_with_area_in_range():
    image = np.full((50, 80, 3), 7, "uint8")
    fractions = []
    for seed in range(300):
        changed = np.any(erase(image, rng(seed)) != image, axis=-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.9, "not one full rectangle"
        fractions.append(box.size / changed.size)
    assert 0.015 < min(fractions) < 0.05
    assert 0.28 < max(fractions) < 0.34
    assert np.all(image == 7), "the input was changed"


def test_mix_mixes_targets_in_proportion_to_pixels():
    images = np.stack([np.full((8, 10, 3), value, "uint8") for value in (0, 60, 140, 250)])
    targets = np.eye(4, dtype="float32")
    kinds = set()
    for seed in range(200):
        mixed, soft = mix(images, targets, images[::-1], targets[::-1], 0.8, 1.0, rng(seed))
        np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
        values = np.array([0, 60, 140, 250])
        np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), soft @ values, atol=0.51)
        np.testing.assert_allclose(soft[0], soft[3, ::-1])
        kinds.add("cutmix" if set(np.unique(mixed[0])) <= {0, 250} else "mixup")
    assert kinds == {"cutmix", "mixup"}
    reverse = images[::-1], targets[::-1]
    only = [
        set(np.unique(mix(images, targets, *reverse, 0.0, 1.0, rng(i))[0][0])) <= {0, 250} for i in range(30)
    ]
    assert all(only)


def test_loader_mixes_targets_in_proportion_to_pixels():
    """The original images are uniform, so the mean of a mixed image determines its targets."""
    images = np.repeat(np.arange(0, 200, 20, dtype="uint8"), 3).reshape(-1, 1, 1, 1) * np.ones(
        (1, 6, 6, 1), "uint8"
    )
    split = Split(images, np.repeat(np.arange(10), 3))
    loader = Loader(split, ImageClassification(10), 8, True, Augmentation(mixup=1.0, cutmix=1.0))
    weights = set()
    for index in range(len(loader)):
        batch, targets = loader[index]
        np.testing.assert_allclose(
            batch.mean(axis=(1, 2, 3)), targets @ np.arange(0, 200, 20), atol=0.51, rtol=0
        )
        weights.add(round(float(targets[0].max()), 4))
    assert len(weights) > 1, "all batches have the same weight"


def test_loader_erases_and_flips_expected_fraction_of_images():
    split = Split(
        np.tile(np.arange(64, dtype="uint8").reshape(1, 8, 8, 1), (400, 1, 1, 1)), np.zeros(400, int)
    )
    batch, _ = Loader(split, ImageClassification(1), 400, augmentation=Augmentation(erasing=0.25))[0]
    assert 0.18 < np.mean(np.any(batch != split.images, axis=(1, 2, 3))) < 0.32
    loader = Loader(split, ImageClassification(1), 400, augmentation=Augmentation(flip=True))
    batch, _ = loader[0]
    loader.epoch = 1
    np.testing.assert_array_equal(loader[0][0], batch[:, :, ::-1], "epoch 1 must mirror the other half")
    mirrored = np.all(batch == split.images[:, :, ::-1], axis=(1, 2, 3))
    assert 0.4 < mirrored.mean() < 0.6
    assert np.all(mirrored | np.all(batch == split.images, axis=(1, 2, 3)))


def test_loader_applies_every_augmentation_to_grayscale_images():
    digits = open_dataset("digits", channels=1).splits["train"]
    augmentation = Augmentation(
        random_resized_crop=(0.5, 1),
        pad_crop=1,
        color_jitter=0.4,
        randaugment=3,
        flip=True,
        erasing=1,
        mixup=1,
        cutmix=1,
    )
    batch, targets = Loader(digits, ImageClassification(10), 32, True, augmentation, (12, 12))[0]
    assert batch.shape == (32, 12, 12, 1)
    assert targets.shape == (32, 10)
    assert as_pixels(as_image(batch[0])).shape == (12, 12, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("random_resized_crop", (0.0, 1.0)),
        ("random_resized_crop", (0.5, 0.2)),
        ("interpolation", "cubic"),
        ("resize_crop", -1),
        ("erasing", 1.5),
        ("randaugment_magnitude", 11),
    ],
)
def test_augmentation_rejects_invalid_values(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(Augmentation(), **{field: value})
    with pytest.raises(ValueError, match=r"Got random_resized_crop=.* and resize_crop=52\. Set only one"):
        Augmentation(random_resized_crop=(0.1, 1), resize_crop=52)
    with pytest.raises(ValueError, match="needs image_size"):
        Loader(
            Split(np.zeros((1, 2, 2, 1), "uint8"), np.zeros(1, int)),
            ImageClassification(1),
            1,
            False,
            Augmentation(resize_crop=4),
        )
