"""Maps and panels: their values equal those of the equations."""

import numpy as np
import pytest
from PIL import Image
from reference import Reference, randomize

from focalnets import (
    FocalNetBackbone,
    FocalNetImageClassifier,
    FocalNetImageConverter,
    maps,
    modulation_model,
)
from focalnets.explanation.modulation import BlockMaps, modulation_maps
from focalnets.report import figures as report_figures

pytestmark = pytest.mark.all_backends


@pytest.fixture
def classifier():
    backbone = FocalNetBackbone(8, (1, 2), focal_levels=(2, 3), seed=0)
    net = FocalNetImageClassifier(backbone, 3, FocalNetImageConverter())
    randomize(net)
    return net


def test_modulation_maps_equal_reference(classifier):
    images = np.random.default_rng(0).integers(0, 256, (2, 30, 41, 3)).astype("uint8")
    found = modulation_maps(classifier, images)
    _, values = Reference().classifier(classifier, images)
    assert list(found) == ["stage1_block1", "stage2_block1", "stage2_block2"]
    for name, block in found.items():
        gates = values[f"gates {name}"]
        norm = np.linalg.norm(values[f"modulator {name}"], axis=-1)
        stride = 4 if name.startswith("stage1") else 8
        for image in range(2):
            for level in range(gates.shape[-1]):
                expected = _pillow_upsample(gates[image, ..., level], stride)[:30, :41]
                np.testing.assert_allclose(block.gates[image, ..., level], expected, atol=1e-4)
                assert expected.std() > 1e-3, "the map is constant"
            expected = _pillow_upsample(norm[image], stride)[:30, :41]
            np.testing.assert_allclose(block.modulator_norm[image], expected, atol=1e-4)


def _pillow_upsample(values, stride):
    height, width = values.shape
    image = Image.fromarray(values.astype("float32"))
    return np.asarray(image.resize((width * stride, height * stride), Image.Resampling.BILINEAR))


def test_modulation_model_rejects_backbone(classifier):
    with pytest.raises(TypeError, match="takes a FocalNetImageClassifier; got FocalNetBackbone"):
        modulation_model(classifier.backbone)


def test_upsample_with_stride_1_returns_values():
    values = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype("float32")
    np.testing.assert_array_equal(maps.upsample(values, (5, 6), stride=1), values)


@pytest.mark.slow
def test_draw_panels_shows_every_level_on_shared_scale(classifier, tmp_path, figures):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype("uint8")
    block = modulation_maps(classifier, images)["stage2_block2"]
    assert block.receptive_fields == (3, 7, 13)  # chained kernels of 3, 5 and 7
    report_figures.draw_panels(tmp_path / "panel.png", images, block, ["one", "two"], "heading")
    image = np.asarray(Image.open(tmp_path / "panel.png").convert("RGB"))
    tiles = np.array(figures["panel.png"].axes[0].images, dtype=object).reshape(2, 6)
    for row, line in enumerate(tiles):
        np.testing.assert_array_equal(line[0].get_array(), images[row])
        for level, tile in enumerate(line[1:5]):
            np.testing.assert_array_equal(tile.get_array(), block.gates[row, ..., level])
            largest = np.abs(block.gates).max()
            assert tile.get_clim() == (-largest, largest)
            assert tile.get_cmap().name == "RdBu_r"
        np.testing.assert_array_equal(line[5].get_array(), block.modulator_norm[row])
        assert line[5].get_clim() == (0, block.modulator_norm.max())
        tops = {tile.get_extent()[3] for tile in line}
        assert len(tops) == 1, "one row per image"
    # Six columns: input, 3 gates, global gate, norm. The colors of both scales reach both ends.
    assert image.shape[1] == round(100 * (1.6 * 6 + 2.4))
    import matplotlib

    for name, values in (("RdBu_r", block.gates), ("viridis", block.modulator_norm)):
        assert values.max() > values.min()
        for end in (0, 255):
            color = np.round(255 * np.array(matplotlib.colormaps[name](end)[:3]))
            assert np.any(np.all(np.abs(image - color) <= 2, axis=-1)), (name, end)


@pytest.mark.slow
def test_figures_anchor_scales_at_zero(tmp_path, figures):
    """Norms from 0.548 to 0.574 have similar colors. A gate of 0 is white, regardless of the other gates."""
    noise = np.random.default_rng(0).uniform(size=(1, 8, 8))
    norms = (0.548 + 0.026 * noise).astype("float32")
    gates = np.stack([3 * noise - 1, np.zeros_like(noise)], axis=-1).astype("float32")
    images = np.zeros((1, 8, 8, 3), "uint8")
    block = BlockMaps(gates, norms, (3,))
    report_figures.draw_panels(tmp_path / "panel.png", images, block, [""], "")
    epochs = {1: gates, 2: 0 * gates}
    report_figures.draw_filmstrip(tmp_path / "film.png", images, epochs, {1: norms, 2: 0 * norms}, [""], "")
    shown = [*figures["panel.png"].axes[0].images, *figures["film.png"].axes[0].images]
    assert len(shown) == 4 + 1 + 2 * 3
    scales = {image.get_cmap().name: image.get_clim() for image in shown}
    assert scales["RdBu_r"] == (-gates.max(), gates.max())
    assert scales["viridis"] == (0, norms.max())
    for image in shown:
        colors = image.to_rgba(image.get_array())[..., :3]
        if image.get_cmap().name == "viridis" and image.get_array().any():
            assert np.ptp(colors, axis=(0, 1)).max() < 0.15
        if image.get_cmap().name == "RdBu_r" and not image.get_array().any():
            assert colors.min() > 0.95
    flat = BlockMaps(0 * gates, 0 * norms, (3,))
    report_figures.draw_panels(tmp_path / "flat.png", images, flat, [""], "")  # the largest value is 0
