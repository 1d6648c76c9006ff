"""Choice between plain and optimized operations, and equality of their values and gradients."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from focalnets import FocalNetBackbone, FocalNetImageClassifier
from focalnets.ops import dense, dispatch
from focalnets.ops.focal_context import depthwise_conv, focal_context

pytestmark = pytest.mark.all_backends
ON_TORCH = keras.backend.backend() == "torch"
torch_only = pytest.mark.skipif(not ON_TORCH, reason="implementations of whole operations exist on torch")


@pytest.fixture
def setting(monkeypatch):
    """Function that sets the choice for one test."""
    monkeypatch.setattr(dispatch, "_setting", None)
    return dispatch.set_optimized


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def chosen(operation):
    """Dict of implementation -> number of times it was chosen."""
    return {
        implementation: n for (name, implementation), n in dispatch.dispatches().items() if name == operation
    }


def taken(operation, function):
    """Result of `function`, and the implementations of `operation` that it chose."""
    before = chosen(operation)
    result = function()
    return result, {name for name, n in chosen(operation).items() if n > before.get(name, 0)}


def trained(net, x, y, steps=2):
    """Change of the weights in a few steps of SGD, which shows every gradient."""
    net.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = net.get_weights()
    for _ in range(steps):
        net.train_on_batch(x, y)
    return [after - old for after, old in zip(net.get_weights(), before, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(9, 13), (40, 56)], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"norm_placement": "post", "layer_scale_init": 0.5, "norm_after_modulation": True},
        {"norm_placement": "mlp_only", "normalize_modulator": True, "overlap_embed": True},
    ],
    ids=["pre", "post", "mlp_only"],
)
def test_optimized_operations_give_same_logits_and_gradients(setting, monkeypatch, flags, size):
    if not ON_TORCH and (flags or size != (9, 13)):
        pytest.skip("only one operation is optimized here, and compiling is slow")
    if ON_TORCH and size == (40, 56):  # a small network needs many chunks, the last one short
        monkeypatch.setattr("focalnets.ops.torch_cpu._CHUNK", 2000)
        monkeypatch.setattr("focalnets.ops.torch_cpu._MIN_ROWS", 64)
    x, y = random(5, *size, 3), np.array([0, 1, 2, 1, 0])
    found = {}
    for optimized in (False, None):
        setting(optimized)
        keras.utils.set_random_seed(3)
        net = FocalNetImageClassifier(FocalNetBackbone(8, (1, 1), focal_levels=(2, 3), seed=0, **flags), 3)
        net.set_weights([random(*w.shape, seed=i) / 3 for i, w in enumerate(net.get_weights())])
        found[optimized] = [net.predict_on_batch(x), *trained(net, x, y)]
    for plain, optimized in zip(found[False], found[None], strict=True):
        assert np.abs(optimized - plain).max() <= 2e-4 * np.abs(plain).max()


@torch_only
def test_torch_chooses_onednn_where_supported(setting):
    import torch

    if not torch.backends.mkldnn.is_available() or torch.cuda.is_available():
        pytest.skip("oneDNN is for CPUs")
    net = FocalNetImageClassifier(FocalNetBackbone(8, (1,)), 3)
    x, y = random(2, 16, 16, 3), np.array([0, 1])
    for operation in ("linear", "mlp", "focal_context"):
        assert taken(operation, lambda: net.predict_on_batch(x))[1] == {"onednn"}
    assert taken("depthwise_conv", lambda: net.predict_on_batch(x))[1] == set()  # part of focal_context
    trained(net, x, y)  # the optimizer is built first, on tensors without data
    assert taken("depthwise_conv", lambda: net.train_on_batch(x, y))[1] == {"onednn", "plain"}  # 5 and 3
    assert taken("mlp", lambda: net.train_on_batch(x, y))[1] == {"onednn"}
    assert taken("focal_context", lambda: net.train_on_batch(x, y))[1] == {"plain"}  # a gradient is needed
    setting(False)
    for operation in ("linear", "mlp", "focal_context", "map_chunks", "layer_norm"):
        assert taken(operation, lambda: net.predict_on_batch(x))[1] == {"plain"}


@torch_only
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 4), (1, 1, 1, 3), (2, 3, 2, 8), (3, 9, 4, 16), (2, 1, 20, 5)])
@pytest.mark.parametrize("size", [5, 7, 9, 11])
def test_depthwise_conv_gradient_of_large_kernels_equals_float64(setting, dtype, shape, size):
    import torch

    from focalnets.ops import torch_cpu

    dtype = getattr(torch, dtype)
    if torch_cpu.unsupported(torch.zeros(1, dtype=dtype)):
        pytest.skip("this processor does not support it")
    values = [
        torch.tensor(random(*s, seed=i)) for i, s in enumerate((shape, (size, size, shape[-1], 1), shape))
    ]
    x, kernel, dy = (value.to(dtype).requires_grad_() for value in values)

    def gradients():
        return torch.autograd.grad(depthwise_conv(x, kernel), (x, kernel), dy)

    found, implementations = taken("depthwise_conv", gradients)
    assert implementations == {"onednn"}
    setting(False)
    x, kernel, dy = (tensor.detach().double().requires_grad_() for tensor in (x, kernel, dy))
    for one, exact in zip(found, gradients(), strict=True):
        assert one.dtype is dtype
        largest = exact.abs().max().clamp(min=1)
        assert (one.double() - exact).abs().max() <= largest * (1e-6 if dtype is torch.float32 else 2**-8)


@pytest.mark.slow
@torch_only
def test_bfloat16_training_uses_onednn_and_is_close_to_float32(setting):
    import torch

    from focalnets.ops import torch_cpu

    if torch.cuda.is_available() or torch_cpu.unsupported(torch.zeros(1, dtype=torch.bfloat16)):
        pytest.skip("this processor does not support it")
    x, y = random(4, 24, 24, 3), np.array([0, 1, 2, 1])

    def changes(policy):
        net = FocalNetImageClassifier(FocalNetBackbone(16, (1, 1), seed=0, dtype=policy), 3, dtype=policy)
        net.build((None, 24, 24, 3))
        net.set_weights([random(*w.shape, seed=i) / 4 for i, w in enumerate(net.get_weights())])
        changed = trained(net, x, y)
        for operation in ("linear", "mlp", "depthwise_conv"):
            assert "onednn" in taken(operation, lambda: net.train_on_batch(x, y))[1]
        assert taken("layer_norm", lambda: net.train_on_batch(x, y))[1] == {"torch"}
        return changed

    policies = ("float32", "mixed_bfloat16")
    for exact, rounded in zip(*map(changes, policies), strict=True):
        assert np.abs(rounded - exact).max() <= 0.1 * np.abs(exact).max()


@pytest.mark.slow
@torch_only
@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_unsupported_16_bit_types_are_computed_in_float32(setting, monkeypatch, policy):
    """On processors without instructions for them, torch's matrix multiplications are 30 times slower."""
    import torch

    from focalnets.ops import torch_cpu

    if torch.cuda.is_available() or not torch.backends.mkldnn.is_available():
        pytest.skip("needs oneDNN on a CPU")
    monkeypatch.setattr(torch_cpu, "NATIVE", dict.fromkeys(torch_cpu.NATIVE, False))
    x, y = random(2, 20, 27, 3), np.array([0, 1])

    def network(policy):
        net = FocalNetImageClassifier(
            FocalNetBackbone(16, (1, 1), overlap_embed=True, dtype=policy), 3, dtype=policy
        )
        net.set_weights([random(*w.shape, seed=i) / 4 for i, w in enumerate(net.get_weights())])
        return net

    net = network(policy)
    for operation in ("linear", "mlp", "depthwise_conv", "strided_conv"):
        assert taken(operation, lambda: net.predict_on_batch(x))[1] == {"float32"}, operation
    exact, rounded = network("float32").predict_on_batch(x), net.predict_on_batch(x)
    assert np.abs(rounded.astype("float32") - exact).max() <= 0.03 * np.abs(exact).max()
    mixed = network(f"mixed_{policy}")
    for exact, rounded in zip(trained(network("float32"), x, y), trained(mixed, x, y), strict=True):
        assert np.abs(rounded - exact).max() <= 0.1 * np.abs(exact).max()


@pytest.mark.slow
@torch_only
def test_exported_program_contains_plain_operations(setting):
    import torch

    net = FocalNetImageClassifier(FocalNetBackbone(8, (1,), image_shape=(16, 16, 3)), 3).eval()
    x = torch.zeros(2, 16, 16, 3)
    program = torch.export.export(net, (x,), {"training": False})
    assert "mkldnn" not in str(program.graph)
    np.testing.assert_allclose(program.module()(x, training=False).detach(), net(x).detach(), atol=1e-5)


@torch_only
@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (dense.linear, [(2, 3, 4), (4, 6), (6,)]),
        (dense.mlp, [(2, 3, 4), (4, 6), (6,), (6, 4), (4,)]),
        (depthwise_conv, [(2, 6, 5, 4), (5, 5, 4, 1)]),
    ],
    ids=["linear", "mlp", "depthwise_conv"],
)
def test_second_derivatives_equal_plain_operations(setting, operation, shapes):
    import torch

    def arguments(seed):
        return [
            torch.tensor(random(*shape, seed=seed + i), requires_grad=True) for i, shape in enumerate(shapes)
        ]

    found = {}
    for optimized in (False, None):
        setting(optimized)
        tensors = arguments(0)
        y = operation(*tensors)
        (slope,) = torch.autograd.grad(y.square().sum(), tensors[0], create_graph=True)
        found[optimized] = [g.numpy() for g in torch.autograd.grad(slope.square().sum(), tensors[:2])]
    for plain, twice in zip(found[False], found[None], strict=True):
        np.testing.assert_allclose(twice, plain, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="tests JAX")
def test_jax_differentiates_twice_in_reverse_mode():
    import jax

    images, kernel = random(1, 5, 4, 2), random(3, 3, 2, 1)

    def slope(x):
        return jax.grad(lambda x: (ops.gelu(depthwise_conv(x, kernel), approximate=False) ** 2).sum())(
            x
        ).sum()

    found, step = jax.grad(slope)(images), 1e-2
    moved = np.zeros_like(images)
    moved[0, 2, 1, 0] = step
    expected = (slope(images + moved) - slope(images - moved)) / (2 * step)
    np.testing.assert_allclose(found[0, 2, 1, 0], expected, rtol=2e-2)


@torch_only
def test_vectorized_jacobian_equals_sequential_jacobian(setting):
    """With `vectorize`, torch runs only the backward pass under vmap."""
    import torch

    setting(None)
    rows = torch.tensor(random(5, 8), requires_grad=True)
    images = torch.tensor(random(2, 6, 6, 4), requires_grad=True)
    kernels = [
        torch.tensor(random(*shape, seed=i)) for i, shape in enumerate(((8, 16), (16,), (16, 8), (8,)))
    ]
    depthwise = torch.tensor(random(5, 5, 4, 1), requires_grad=True)
    for function, tensor in (
        (lambda x: dense.linear(x, kernels[0], kernels[1]).sum(0), rows),
        (lambda x: dense.mlp(x, *kernels).sum(0), rows),
        (lambda x: depthwise_conv(x, depthwise).sum((0, 1, 2)), images),
    ):
        sequential, vectorized = (
            torch.autograd.functional.jacobian(function, tensor, vectorize=vectorize)
            for vectorize in (False, True)
        )
        np.testing.assert_allclose(vectorized, sequential, rtol=1e-4, atol=1e-4)


@torch_only
def test_unsupported_tensors_use_plain_operations(setting):
    import torch

    from focalnets.ops import torch_cpu

    x = torch.zeros(2, 3)
    assert "does not support torch.float64" in torch_cpu.unsupported(x.double())
    assert "empty" in torch_cpu.unsupported(x[:0])
    assert "on meta" in torch_cpu.unsupported(x.to("meta"))
    with torch.autocast("cpu"):
        assert "autocast" in torch_cpu.unsupported(x)
    kernel, bias = torch.ones(3, 1), torch.zeros(1)
    rows = torch.func.vmap(lambda row: dense.linear(row, kernel, bias))(torch.ones(4, 2, 3))
    assert rows.shape == (4, 2, 1)
    frozen = dense.mlp(torch.ones(2, 3, requires_grad=True), kernel, bias, torch.ones(1, 3), torch.zeros(3))
    frozen.sum().backward()  # only x requires a gradient


def test_set_optimized_true_raises_without_implementation(setting):
    setting(True)
    context, gates, kernel = ops.ones((1, 3, 3, 2)), ops.ones((1, 3, 3, 2)), ops.ones((3, 3, 2, 1))
    if ON_TORCH:
        context.requires_grad_()
    with pytest.raises(RuntimeError, match=r"No optimized.* of focal_context.*FOCALNETS_OPTIMIZED=auto"):
        focal_context(context, gates, [kernel])


def test_set_optimized_rejects_other_values(setting):
    for wrong in (1, 0, "auto"):
        with pytest.raises(ValueError, match="takes None, True or False"):
            setting(wrong)


@pytest.mark.parametrize(("word", "expected"), [("0", False), ("1", True), ("auto", None), (None, None)])
def test_environment_variable_sets_initial_choice(word, expected, monkeypatch):
    monkeypatch.setattr(dispatch, "_setting", "unread")
    if word is None:
        monkeypatch.delenv("FOCALNETS_OPTIMIZED", raising=False)
    else:
        monkeypatch.setenv("FOCALNETS_OPTIMIZED", word)
    assert dispatch.optimized_setting() is expected


def test_environment_variable_rejects_other_values(monkeypatch):
    monkeypatch.setattr(dispatch, "_setting", "unread")
    monkeypatch.setenv("FOCALNETS_OPTIMIZED", "yes")
    with pytest.raises(ValueError, match="FOCALNETS_OPTIMIZED must be auto, 1 or 0; got 'yes'"):
        dispatch.optimized_setting()


def test_dropout_mask_has_rate_and_differs_between_calls(setting):
    from focalnets.layers.drop_path import dropout_mask
    from focalnets.ops.backend import on_host

    found = {}
    for optimized in (None, False):
        setting(optimized)
        like = ops.ones(1)
        with on_host():
            dropout = keras.layers.Dropout(0.3, seed=7)
        first, second = (ops.convert_to_numpy(dropout_mask(dropout, (50, 40, 51), like)) for _ in range(2))
        for mask in (first, second):
            np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.7], rtol=1e-6)
            assert abs((mask == 0).mean() - 0.3) < 0.01  # 7 standard deviations
            # Neighbors come from the same random integer, and must not be correlated.
            correlation = np.corrcoef((mask == 0).ravel()[:-1], (mask == 0).ravel()[1:])[0, 1]
            assert abs(correlation) < 0.02
        assert 0.4 < (first != second).mean() < 0.44  # 2 * 0.3 * 0.7
        again = dropout_mask(keras.layers.Dropout(0.3, seed=7), (50, 40, 51), like)
        np.testing.assert_array_equal(ops.convert_to_numpy(again), first)
        found[optimized] = first
    assert found[None].shape == found[False].shape


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the setting exists in glibc")
def test_keep_freed_memory_avoids_page_faults():
    """Counts faults of the last 20 of 40 arrays of 64 MB, each of which is freed before the next."""
    code = """
import resource, sys
sys.argv = ["focalnets"]
from focalnets import process
if sys.orig_argv[-1] == "keep":
    assert process.keep_freed_memory()
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**23)
start = faults()
for _ in range(20):
    np.ones(2**23)
print(faults() - start)
"""
    with_setting, without = (
        int(subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True).stdout)
        for word in ("keep", "return")
    )
    assert with_setting < without / 10
