"""One helper that tests the whole contract of a layer."""

import inspect

import keras
import numpy as np


def check_layer(cls, arguments, input_shape, output_shape, parameters):
    """Serialisation, counts, symbolic shape and dtype, mixed precision; `check_saving` has the rest.

    Args:
        cls: the layer's class.
        arguments: EVERY constructor argument, each with a value that is not its default.
        input_shape, output_shape: with the batch axis.
        parameters: number of trainable values after building.

    Returns:
        The built layer.
    """
    check_config(cls, arguments)
    x = np.random.default_rng(0).normal(size=input_shape).astype("float32")

    layer = cls(**arguments)
    y = layer(x)
    assert tuple(y.shape) == output_shape
    assert sum(int(np.prod(w.shape)) for w in layer.trainable_weights) == parameters

    # The symbolic call says the same as the eager one, for a fixed and for a free size.
    for shape in (input_shape[1:], (*[None] * (len(input_shape) - 2), input_shape[-1])):
        symbolic = cls(**arguments)(keras.Input(shape))
        assert symbolic.dtype == "float32"
        assert all(s is None or s == e for s, e in zip(symbolic.shape[1:], output_shape[1:], strict=True))
        assert symbolic.shape[-1] == output_shape[-1]

    # Mixed precision: weights float32, result bfloat16, symbolic dtype in agreement.
    mixed = cls(**{**arguments, "dtype": "mixed_bfloat16"})
    assert keras.backend.standardize_dtype(mixed(x).dtype) == "bfloat16"
    assert mixed(keras.Input(input_shape[1:])).dtype == "bfloat16"
    assert all(weight.dtype == "float32" for weight in mixed.trainable_weights)
    return layer


def check_saving(layer, input_shape, path):
    """A model around the layer survives `.keras`, and one fit step changes every weight."""
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
    """Every argument is in `arguments` with a non-default value, and comes back from the config."""
    signature = inspect.signature(cls.__init__).parameters.values()
    own = {p.name: p.default for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD}
    del own["self"]
    assert set(own) == set(arguments), "give every argument a non-default value"
    for name, value in arguments.items():
        assert value != own[name], f"{name} has its default value"

    first = cls(**arguments).get_config()
    second = cls.from_config(first).get_config()
    assert first == second
    for name, value in arguments.items():
        stored = first[name]
        if isinstance(stored, dict):
            assert stored != cls(**{**arguments, name: own[name]}).get_config()[name]
        else:
            assert stored == value, name
