"""Checks of the contract between a layer and Keras."""

import inspect

import keras
import numpy as np


def check_layer(cls, arguments, input_shape, output_shape, parameters):
    """Check the configuration, parameter count, symbolic shape and dtype, and mixed precision of a layer.

    Args:
        cls: Class of the layer.
        arguments: dict. EVERY constructor argument, with a value that differs from its default.
        input_shape: tuple. Shape with the batch axis.
        output_shape: tuple. Shape with the batch axis.
        parameters: int. Number of trainable parameters after building.

    Returns:
        The built layer.
    """
    check_config(cls, arguments)
    x = np.random.default_rng(0).normal(size=input_shape).astype("float32")

    layer = cls(**arguments)
    y = layer(x)
    assert tuple(y.shape) == output_shape
    assert sum(int(np.prod(w.shape)) for w in layer.trainable_weights) == parameters

    # The symbolic call gives the shape of the eager call, for fixed and for free sizes.
    for shape in (input_shape[1:], (*[None] * (len(input_shape) - 2), input_shape[-1])):
        symbolic = cls(**arguments)(keras.Input(shape))
        assert symbolic.dtype == "float32"
        assert all(s is None or s == e for s, e in zip(symbolic.shape[1:], output_shape[1:], strict=True))
        assert symbolic.shape[-1] == output_shape[-1]

    # Mixed precision: weights are float32, eager and symbolic outputs are bfloat16.
    mixed = cls(**{**arguments, "dtype": "mixed_bfloat16"})
    assert keras.backend.standardize_dtype(mixed(x).dtype) == "bfloat16"
    assert mixed(keras.Input(input_shape[1:])).dtype == "bfloat16"
    assert all(weight.dtype == "float32" for weight in mixed.trainable_weights)
    return layer


def check_saving(layer, input_shape, path):
    """Check that a `.keras` file restores the layer, and that one training step changes every weight."""
    inputs = keras.Input(input_shape[1:])
    model = keras.Model(inputs, layer(inputs))
    x = np.random.default_rng(0).normal(size=input_shape).astype("float32")
    before = model.predict(x, verbose=0)
    model.save(path)
    np.testing.assert_allclose(keras.saving.load_model(path).predict(x, verbose=0), before, rtol=1e-6)

    weights = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.fit(x, np.random.default_rng(1).normal(size=before.shape), epochs=1, verbose=0)
    for weight, old in zip(model.trainable_weights, weights, strict=True):
        assert np.any(keras.ops.convert_to_numpy(weight) != old), f"{weight.path} has no gradient"


def check_config(cls, arguments):
    """Check that `arguments` has a non-default value for every argument, and the config restores them."""
    signature = inspect.signature(cls.__init__).parameters.values()
    own = {p.name: p.default for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD}
    del own["self"]
    assert set(own) == set(arguments), "expected a non-default value for every argument"
    for name, value in arguments.items():
        assert value != own[name], f"{name} has its default value; expected another value"

    first = cls(**arguments).get_config()
    second = cls.from_config(first).get_config()
    assert first == second
    for name, value in arguments.items():
        stored = first[name]
        if isinstance(stored, dict):
            assert stored != cls(**{**arguments, name: own[name]}).get_config()[name]
        else:
            assert stored == value, name
