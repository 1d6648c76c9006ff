"""Other maps: equality with their definitions, and with captum and pytorch-grad-cam where installed."""

import keras
import numpy as np
import pytest
from reference import randomize

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter
from focalnets.explanation.attribution import evidence, scalars
from focalnets.explanation.comparison import COMPARISONS, grad_cam, integrated_gradients, occlusion
from focalnets.maps import upsample
from focalnets.models.evidence import target_vector
from focalnets.ops.backend import value_and_gradient


@pytest.fixture(scope="module")
def net():
    backbone = FocalNetBackbone(8, (1, 1), focal_levels=2, patch_size=4, seed=0)
    made = FocalNetImageClassifier(backbone, 4, FocalNetImageConverter())
    randomize(made, seed=1)
    return made


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3)).astype("uint8")
TARGETS = np.stack([target_vector(4, 1), target_vector(4, 2, scalar="log_probability")])


@pytest.mark.all_backends
def test_value_and_gradient_differentiates_the_sum():
    x = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    value, gradient = value_and_gradient(lambda one: keras.ops.sum(one**3, axis=-1), x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(value), [9.0, 91.0])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(gradient), 3 * x**2)


@pytest.mark.slow
@pytest.mark.all_backends
def test_comparison_maps_have_the_size_of_the_images(net):
    fewer = {"integrated gradients": {"steps": 2}, "occlusion": {"cells": 2}}  # JAX compiles each step
    maps = dict(COMPARISONS)
    if keras.backend.backend() != "torch":  # which compile each operation: one gradient is enough
        maps = {"Grad-CAM": grad_cam}
    for name, function in maps.items():
        found = function(net, IMAGES, TARGETS, **fewer.get(name, {}))
        assert found.shape == IMAGES.shape[:3], name
        assert np.isfinite(found).all(), name
        assert found.std() > 0, name


def test_integrated_gradients_sum_to_the_difference(net):
    """Completeness holds up to the error of the quadrature, which decreases with the number of steps."""
    total = evidence(net, IMAGES, TARGETS).total
    errors = []
    for steps in (2, 64):
        found = integrated_gradients(net, IMAGES, TARGETS, steps)
        errors.append(np.abs(found.sum(axis=(1, 2)) - total).max())
    assert errors[1] < 0.02 * np.abs(total).max()
    assert errors[1] < errors[0]


def test_occlusion_is_the_loss_of_each_cell(net):
    found = occlusion(net, IMAGES, TARGETS, cells=4)
    gray = np.float32(IMAGES)
    gray[:, 4:8, 12:18] = 255 * np.array(net.image_converter.mean)
    logits = [net.predict(one, verbose=0) for one in (np.float32(IMAGES), gray)]
    lost = scalars(logits[0], TARGETS) - scalars(logits[1], TARGETS)
    np.testing.assert_allclose(found[:, 4:8, 12:18], lost[:, None, None] * np.ones((1, 4, 6)), atol=1e-5)


def test_grad_cam_equals_its_definition(net):
    """Weights by central differences of the scalar with respect to the features of the last block."""
    backbone = net.backbone
    features = keras.Model(backbone.inputs, backbone.get_layer("stage2_block1").output)
    features = features.predict(keras.ops.convert_to_numpy(net.image_converter(IMAGES)), verbose=0)
    norm, h = backbone.get_layer("norm"), 1e-2

    def scalar(values):
        return scalars(keras.ops.convert_to_numpy(net.classify(norm(values.astype("float32")))), TARGETS)

    importance = np.zeros((2, features.shape[-1]))
    for channel in range(features.shape[-1]):
        step = np.zeros_like(features)
        step[..., channel] = h  # at all positions: the sum of the gradients
        positions = features.shape[1] * features.shape[2]
        importance[:, channel] = (scalar(features + step) - scalar(features - step)) / (2 * h) / positions
    expected = np.maximum((importance[:, None, None] * features).sum(axis=-1, keepdims=True), 0)
    expected = upsample(expected, IMAGES.shape[1:3], 8)[..., 0]
    np.testing.assert_allclose(grad_cam(net, IMAGES, TARGETS), expected, atol=2e-3 * expected.max())


def test_integrated_gradients_equal_captum(net):
    captum = pytest.importorskip("captum.attr")
    import torch

    class ChannelsFirst(torch.nn.Module):
        def forward(self, x):
            return net.classify(net.backbone(x.permute(0, 2, 3, 1)))

    x = net.image_converter(IMAGES).permute(0, 3, 1, 2)
    explained = captum.IntegratedGradients(ChannelsFirst())
    theirs = explained.attribute(x, target=1, n_steps=32, method="riemann_middle")
    ours = integrated_gradients(net, IMAGES, np.stack([target_vector(4, 1)] * 2), steps=32)
    theirs = theirs.sum(dim=1).detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_grad_cam_equals_pytorch_grad_cam(net):
    library = pytest.importorskip("pytorch_grad_cam")
    import torch

    class ChannelsFirst(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last = torch.nn.Identity()
            self.unused = torch.nn.Parameter(torch.zeros(1))  # the library asks where the parameters are

        def forward(self, x):
            x = x.permute(0, 2, 3, 1)
            for layer in net.backbone.layers[1:-1]:
                x = layer(x)
            x = self.last(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return net.classify(net.backbone.get_layer("norm")(x))

    model = ChannelsFirst()
    targets = [library.utils.model_targets.ClassifierOutputTarget(1)] * 2
    x = net.image_converter(IMAGES).permute(0, 3, 1, 2).detach()
    with library.GradCAM(model, [model.last]) as cam:
        theirs = cam(x, targets)  # scaled to 0..1, image by image, and resized
    ours = grad_cam(net, IMAGES, np.stack([target_vector(4, 1)] * 2))
    for one, other in zip(ours, theirs, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98
