"""Metrics of faithfulness, on functions whose right map is known."""

import pathlib

import numpy as np
import pytest

from focalnets import FocalNetImageClassifier, open_dataset
from focalnets.explanation.faithfulness import Interval, diffused, faithfulness
from focalnets.explanation.localization import energy_inside, grid_images, pasted_images, points_inside
from focalnets.explanation.score import EVIDENCE, score

ROOT = pathlib.Path(__file__).parents[2]
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.uniform(0, 255, (3, 16, 16, 3)).astype("float32")
WEIGHTS = np.kron(GENERATOR.permutation(64).reshape(8, 8) / 64, np.ones((2, 2)))


def probabilities(images):
    """Linear in the distance from gray: the cells of `WEIGHTS` decide."""
    evidence = (WEIGHTS[..., None] * np.abs(images - 128)).sum(axis=(1, 2, 3)) / (WEIGHTS.sum() * 3 * 128)
    return np.stack([evidence, 1 - evidence], axis=1)


def right_map():
    return np.stack([(WEIGHTS[..., None] * np.abs(one - 128)).sum(axis=-1) for one in IMAGES])


def test_right_map_is_best_and_reversed_map_is_worst():
    maps = {"right": right_map(), "reversed": -right_map(), "random": GENERATOR.normal(size=(3, 16, 16))}
    found = faithfulness(probabilities, IMAGES, np.zeros(3, int), maps, [128.0] * 3)
    mean = {name: {metric: values.mean() for metric, values in one.items()} for name, one in found.items()}
    assert mean["right"]["deletion"] < mean["random"]["deletion"] < mean["reversed"]["deletion"]
    for metric in ("insertion", "SRG", "ROAD"):
        assert mean["right"][metric] > mean["random"][metric] > mean["reversed"][metric], metric
    np.testing.assert_allclose(found["right"]["SRG"], -found["reversed"]["SRG"])
    assert abs(mean["random"]["SRG"]) < 0.3 * mean["right"]["SRG"]


def test_deletion_is_the_area_under_the_curve():
    """The probability is the fraction of kept cells, so every order gives the area 1 / 2."""

    def kept(images):
        fraction = (images[..., 0] > 0).mean(axis=(1, 2))
        return np.stack([fraction, 1 - fraction], axis=1)

    found = faithfulness(kept, IMAGES + 1, [0, 0, 0], {"any": right_map()}, [0.0] * 3)["any"]
    np.testing.assert_allclose(found["deletion"], 0.5, atol=0.01)
    np.testing.assert_allclose(found["SRG"], 0, atol=0.01)


def test_diffused_keeps_known_pixels_and_interpolates_the_others():
    rows = np.linspace(0, 200, 16, dtype="float32")
    images = np.broadcast_to(rows[:, None, None], (2, 16, 16, 1)).copy()
    mask = np.zeros((2, 16, 16), bool)
    mask[0, 4:12, 4:12] = True
    mask[1, :, 8:] = True
    damaged = np.where(mask[..., None], 255, images).astype("float32")
    found = diffused(damaged, mask, noise=0)
    np.testing.assert_array_equal(found[~mask], images[~mask])
    assert np.abs(found - images)[0].max() < 25, "a hole in a ramp is filled with the ramp"
    assert found.max() <= 200, "the masked pixels are not read"
    noisy = diffused(damaged, mask)
    assert 1 < (noisy - found)[mask].std() < 4


def test_interval_contains_the_mean_of_normal_values_in_95_percent_of_trials():
    generator = np.random.default_rng(1)
    hits = []
    for trial in range(200):
        one = Interval.of(generator.normal(3.0, 1.0, 50), seed=trial)
        hits.append(one.low <= 3.0 <= one.high)
    assert 0.88 <= np.mean(hits) <= 0.99


def test_located_images_are_the_same_for_a_seed_and_hold_their_objects():
    images = GENERATOR.integers(0, 256, (8, 16, 16, 3)).astype("uint8")
    classes = np.arange(8) % 5
    for make in (grid_images, pasted_images):
        first, again, other = (make(images, classes, 6, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.images, again.images)
        assert not np.array_equal(first.images, other.images)
        assert (first.regions.mean(axis=(1, 2)) == 0.25).all()
        perfect = np.float32(first.regions)
        np.testing.assert_allclose(energy_inside(perfect, first.regions), 1)
        assert points_inside(perfect, first.regions).all()
        assert not points_inside(-perfect, first.regions).any()
    grid = grid_images(images, classes, 6, 1)
    for canvas, region, label in zip(grid.images, grid.regions, grid.classes, strict=True):
        cell = canvas[region].reshape(16, 16, 3)
        assert any(np.array_equal(cell, one) for one in images[classes == label])
    with pytest.raises(ValueError, match="needs images of four classes; got 3"):
        grid_images(images, np.arange(8) % 3, 1)


@pytest.mark.slow
def test_score_finds_exact_evidence_better_than_random(tmp_path):
    net = FocalNetImageClassifier.from_preset("focalnet_nano_cifar10")
    folder = "docs/cifar10"
    files = sorted((ROOT / folder).glob("*.jpg"))
    images = np.concatenate([net.preprocess(path) for path in files])
    np.savez(tmp_path / "ten.npz", x_test=images, y_test=np.arange(10), x_train=images, y_train=np.arange(10))
    split = open_dataset(tmp_path / "ten.npz", prepare=net.image_converter.prepare).splits["test"]
    found = score(net, split, "ten", maps=["random", "Grad-CAM"])
    assert found.images == 10
    assert list(found.values) == [EVIDENCE, "CAM", "random", "Grad-CAM"]
    for metric in ("deletion", "insertion", "SRG", "ROAD"):
        assert found.margin("random", metric).mean > 0, metric
    record = found.record()
    assert record["maps"]["random"]["SRG"]["margin"]["mean"] == found.margin("random", "SRG").mean
    assert [path.name for path in found.write(tmp_path)] == ["scores.json", "scores.html"]
    assert "exact evidence" in repr(found)
