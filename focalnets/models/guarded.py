"""GuardedModel: a Keras model that reports invalid inputs and checks the first batch of each call.

Differences from `keras.Model` in Keras 3.15:

- `predict` returns an empty array for an empty array. Keras raises an `UnboundLocalError` (torch) or loses
  the weights (JAX).
- Images and labels of an invalid shape, dtype or range raise an error that describes them (`batches.py`).
  Keras prints the arrays, or treats a gray image as a batch of rows.
- On JAX, the weights survive an exception (`jax_weights.py`).
- `check_first_batch` gets the first batch of each `fit`, `evaluate`, `predict` and `predict_on_batch`.
  Nothing is read twice, and later batches are not checked. On TensorFlow, `fit` and `evaluate` do not expose
  their batches. There, arrays are checked before the call, and of a `tf.data.Dataset` only the shape is
  known.
"""

import contextlib
import functools
import inspect
import itertools
import sys
import warnings

import keras
import numpy as np
from keras import ops, tree

from focalnets.models.batches import batch_images, first_array, images_problem, is_empty
from focalnets.models.jax_weights import keep_weights_after_errors
from focalnets.pixel_range import sample_pixels

if keras.backend.backend() == "jax":
    keep_weights_after_errors()


def in_h5_files(model):
    """Register a model class under its bare name, which is how Keras stores it in .h5 files."""
    keras.saving.get_custom_objects()[model.__name__] = model
    return model


class _Call:
    """Running call of `fit`, `evaluate` or `predict`."""

    def __init__(self, verb, outer):
        self.verb = verb
        self.checked = False
        self.warned = set() if outer is None else outer.warned  # `outer` is the `fit` that validates


@keras.saving.register_keras_serializable(package="focalnets")
@in_h5_files
class GuardedModel(keras.Model):
    """Keras model that checks its inputs. Subclasses define the hooks `check_*` and `trained_on`."""

    _call = None

    def __new__(cls, *arguments, **keywords):
        parameters = inspect.signature(cls.__init__).parameters
        unknown = [name for name in keywords if name not in parameters]
        if unknown and all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
            from focalnets.presets.overrides import unknown_argument

            known = [name for name in parameters if name != "self"]
            raise TypeError(unknown_argument(cls.__name__, unknown[0], keywords[unknown[0]], known))
        return super().__new__(cls, *arguments, **keywords)

    def check_first_batch(self, images, verb):
        """Yield the texts of warnings.

        Args:
            images: First batch (N, H, W, C) of any array type. Use `sample` to get values.
            verb: str. "fit", "evaluate", "predict" or "predict_on_batch".
        """
        return ()

    def trained_on(self, size):
        """Called with the (height, width) of the images after the first training step."""

    def check_labels(self, labels):
        """Return the text of an error about labels, or None."""

    def __call__(self, *arguments, **keywords):
        problem = images_problem(arguments[0], self.inputs[0].shape[-1]) if arguments else None
        if problem is not None:
            raise ValueError(f"{type(self).__name__} got {problem}")
        return super().__call__(*arguments, **keywords)

    @functools.wraps(keras.Model.fit)
    def fit(self, x=None, y=None, *arguments, **keywords):
        self._check_batch("fit", x, y)
        if isinstance(validation := keywords.get("validation_data"), list | tuple):
            self._check_batch("fit, in validation_data,", *validation[:2])
        self._refuse_sharded_parameters()
        self._rebuild_optimizer()
        with self._guarded("fit", x):
            return super().fit(x, y, *arguments, **keywords)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, x=None, y=None, *arguments, **keywords):
        self._check_batch("evaluate", x, y)
        with self._guarded("evaluate", x):
            return super().evaluate(x, y, *arguments, **keywords)

    @functools.wraps(keras.Model.predict)
    def predict(self, x, *arguments, **keywords):
        if is_empty(x):
            return self._empty_outputs(x)
        self._check_batch("predict", x)
        with self._guarded("predict", x):
            return super().predict(x, *arguments, **keywords)

    @functools.wraps(keras.Model.predict_on_batch)
    def predict_on_batch(self, x):
        if is_empty(x):
            return self._empty_outputs(x)
        self._check_batch("predict_on_batch", x)
        with self._guarded("predict_on_batch", x):
            return super().predict_on_batch(x)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, x, y=None, *arguments, **keywords):
        on_host = isinstance(y, np.ndarray)  # reading labels on a GPU would wait for it
        self._check_batch("train_on_batch", x, y if on_host else None)
        self._refuse_sharded_parameters()
        self._rebuild_optimizer()
        result = super().train_on_batch(x, y, *arguments, **keywords)
        self._record_size(batch_images(x))
        return result

    def _refuse_sharded_parameters(self):
        """Raise a RuntimeError after `fully_shard` of torch, which trains a Keras model wrongly."""
        kinds = {type(parameter).__name__ for parameter in getattr(self, "parameters", tuple)()}
        if "DTensor" in kinds:
            raise RuntimeError(
                "The parameters are DTensors, as after torch's fully_shard (FSDP2). The variables of a Keras "
                "model remain the old parameters, so gradients would not be averaged and updates would be "
                "lost. Train with focalnets.train under torchrun, or shard the model on JAX (docs/scale.md)."
            )

    def _rebuild_optimizer(self):
        """Rebuild the optimizer of a model from an .h5 file, which Keras builds without variables."""
        optimizer = self.optimizer
        if getattr(optimizer, "built", False) and getattr(optimizer, "_trainable_variables", None) == []:
            optimizer.built = False
            optimizer.build(self.trainable_variables)

    def make_train_function(self, force=False):
        self._make("train_function", super().make_train_function, force)

    def make_test_function(self, force=False):
        self._make("test_function", super().make_test_function, force)

    def make_predict_function(self, force=False):
        self._make("predict_function", super().make_predict_function, force)

    def _make(self, name, make, force):
        if force or getattr(self, name) is None:
            make(force)
            setattr(self, name, self._with_check(getattr(self, name)))

    def _with_check(self, function):
        """Wrap a step function of Keras so that the first batch of each call is checked."""

        def step(*arguments):
            call = self._call
            if call is None or call.checked:
                return function(*arguments)
            call.checked = True
            *state, batches = arguments  # JAX passes a state before the batches
            if isinstance(batches, list):
                first = batches[0]
            elif state:
                first = next(batches)
                batches = itertools.chain((first,), batches)
            else:  # TensorFlow's iterator, which does not expose its batches
                return function(*arguments)
            images, labels, _ = keras.utils.unpack_x_y_sample_weight(first)
            self._check_batch(call.verb, images, labels)
            images = batch_images(images)
            self._warn_about(images, call)
            result = function(*state, batches)
            if call.verb == "fit":
                self._record_size(images)
            return result

        return step

    def _warn_about(self, images, call):
        if images is None:
            return
        for text in self.check_first_batch(images, call.verb):
            if text not in call.warned:
                call.warned.add(text)
                warn_user(text)

    def _record_size(self, images):
        if images is not None and None not in images.shape[1:3]:
            self.trained_on(tuple(int(side) for side in images.shape[1:3]))

    @contextlib.contextmanager
    def _guarded(self, verb, x):
        outer = self._call
        call = self._call = _Call(verb, outer)
        images = None
        try:
            if keras.backend.backend() == "tensorflow" and verb in ("fit", "evaluate"):
                images, labels, _ = keras.utils.unpack_x_y_sample_weight(getattr(x, "element_spec", x))
                images = batch_images(images)
                if images is not None:
                    self._check_batch(verb, images, labels)
                self._warn_about(images, call)
            yield
        finally:
            self._call = outer
        if verb == "fit":
            self._record_size(images)

    def _check_batch(self, verb, x, y=None):
        """Raise a ValueError for images and labels that are not a valid batch."""
        if is_empty(x):
            array = first_array(x)
            got = "no batch" if array is None else f"an array of shape {tuple(array.shape)}"
            raise ValueError(f"{verb} got {got}; expected at least one image.")
        problem = images_problem(x, self.inputs[0].shape[-1]) or self.check_labels(y)
        if problem is not None:
            raise ValueError(f"{verb} got {problem}")

    def _empty_outputs(self, x):
        """Outputs of `predict` for no images."""
        array = first_array(x)
        shape = self.inputs[0].shape if array is None else array.shape
        spec = self.compute_output_spec(keras.KerasTensor((None, *shape[1:]), dtype=self.inputs[0].dtype))

        def empty(output):
            if None in output.shape[1:]:
                raise ValueError(
                    "predict got no batch, and the size of its outputs depends on the size of the images; "
                    "expected at least one batch, or an empty array (0, height, width, channels)."
                )
            return ops.convert_to_numpy(ops.zeros((0, *output.shape[1:]), output.dtype))

        return tree.map_structure(empty, spec)


def sample(images):
    """Values of a few pixels of a batch as a NumPy array, or None if only the shape is known."""
    if not hasattr(images, "__getitem__"):  # a TensorSpec
        return None
    return ops.convert_to_numpy(sample_pixels(images))


def warn_user(text):
    """Warn at the line of the user's program that called Keras or focalnets."""
    frame, level, outermost = sys._getframe(1), 1, 1
    while frame is not None:
        level += 1
        if frame.f_globals.get("__name__", "").split(".")[0] in ("keras", "focalnets"):
            outermost = level
        frame = frame.f_back
    warnings.warn(text, stacklevel=outermost + 1)
