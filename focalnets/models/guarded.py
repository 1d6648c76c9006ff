"""GuardedModel: a Keras model that survives wrong input and looks at the first batch of each call.

What Keras 3.15 does not do, and this does:

- No images in, no results out: `predict` of an empty array returns an empty array. Keras ends with an
  `UnboundLocalError` (torch), or loses the weights (JAX).
- Images and labels of a wrong shape, type or range are an error that describes them, see `batches.py`. Keras
  prints the arrays, or takes a gray image for a batch of rows.
- On JAX, an exception does not cost the weights, see `jax_weights.py`.
- The first batch of each `fit`, `evaluate`, `predict` and `predict_on_batch` goes to `check_first_batch`
  before it is used. Later batches cost nothing. It is the batch itself, whatever the data come from: nothing
  is read twice. TensorFlow's `fit` and `evaluate` hide their batches, so there arrays are looked at before
  the call, and of a `tf.data.Dataset` only the shape is known.
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
    """Class decorator: Keras writes the class of a model into .h5 files without its package."""
    keras.saving.get_custom_objects()[model.__name__] = model
    return model


class _Call:
    """A call of `fit`, `evaluate` or `predict` that is under way."""

    def __init__(self, verb, outer):
        self.verb = verb
        self.outer = outer  # the `fit` that validates
        self.looked = False
        self.said = set() if outer is None else outer.said


@keras.saving.register_keras_serializable(package="focalnets")
@in_h5_files
class GuardedModel(keras.Model):
    """See the module. Subclasses define `check_first_batch` and `trained_on`."""

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
        """Yield a text for each thing to warn about.

        Args:
            images: the first batch, (N, H, W, C), of the backend's or another array type; `sample` gives
                its values.
            verb: "fit", "evaluate", "predict" or "predict_on_batch".
        """
        return ()

    def trained_on(self, size):
        """Called after the first step of a training, with the (height, width) of its images."""

    def check_labels(self, labels):
        """The text of an error about the labels of a call or batch, or None."""

    def __call__(self, *arguments, **keywords):
        if arguments and (problem := images_problem(arguments[0], self.inputs[0].shape[-1])) is not None:
            raise ValueError(f"{type(self).__name__} got {problem}")
        return super().__call__(*arguments, **keywords)

    @functools.wraps(keras.Model.fit)
    def fit(self, x=None, y=None, *arguments, **keywords):
        self._refuse("fit", x, y)
        if isinstance(validation := keywords.get("validation_data"), list | tuple):
            self._refuse("fit, in validation_data,", *validation[:2])
        self._rebuild_optimizer()
        with self._guarded("fit", x):
            return super().fit(x, y, *arguments, **keywords)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, x=None, y=None, *arguments, **keywords):
        self._refuse("evaluate", x, y)
        with self._guarded("evaluate", x):
            return super().evaluate(x, y, *arguments, **keywords)

    @functools.wraps(keras.Model.predict)
    def predict(self, x, *arguments, **keywords):
        if is_empty(x):
            return self._outputs_for_none(x)
        self._refuse("predict", x)
        with self._guarded("predict", x):
            return super().predict(x, *arguments, **keywords)

    @functools.wraps(keras.Model.predict_on_batch)
    def predict_on_batch(self, x):
        if is_empty(x):
            return self._outputs_for_none(x)
        self._refuse("predict_on_batch", x)
        with self._guarded("predict_on_batch", x):
            return super().predict_on_batch(x)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, x, y=None, *arguments, **keywords):
        on_host = isinstance(y, np.ndarray)  # labels on a GPU would be waited for
        self._refuse("train_on_batch", x, y if on_host else None)
        self._rebuild_optimizer()
        result = super().train_on_batch(x, y, *arguments, **keywords)
        self._record_size(batch_images(x))
        return result

    def _rebuild_optimizer(self):
        """Keras builds the optimizer of a model from an .h5 file for none of its variables."""
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
            setattr(self, name, self._watched(getattr(self, name)))

    def _watched(self, function):
        """A step function of Keras that shows its first batch in each call."""

        def step(*arguments):
            call = self._call
            if call is None or call.looked:
                return function(*arguments)
            call.looked = True
            *state, batches = arguments  # JAX has a state before them
            if isinstance(batches, list):
                first = batches[0]
            elif state:
                first = next(batches)
                batches = itertools.chain((first,), batches)
            else:  # TensorFlow's own iterator, which cannot be looked into
                return function(*arguments)
            images, labels, _ = keras.utils.unpack_x_y_sample_weight(first)
            self._refuse(call.verb, images, labels)
            images = batch_images(images)
            self._look(images, call)
            result = function(*state, batches)
            if call.verb == "fit":
                self._record_size(images)
            return result

        return step

    def _look(self, images, call):
        if images is None:
            return
        for text in self.check_first_batch(images, call.verb):
            if text not in call.said:
                call.said.add(text)
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
                    self._refuse(verb, images, labels)
                self._look(images, call)
            yield
        finally:
            self._call = outer
        if verb == "fit":
            self._record_size(images)

    def _refuse(self, verb, x, y=None):
        """ValueError for images and labels that cannot be those of a batch."""
        if is_empty(x):
            array = first_array(x)
            got = "no batch" if array is None else f"an array of shape {tuple(array.shape)}"
            raise ValueError(f"{verb} got {got}; expected at least one image.")
        problem = images_problem(x, self.inputs[0].shape[-1]) or self.check_labels(y)
        if problem is not None:
            raise ValueError(f"{verb} got {problem}")

    def _outputs_for_none(self, x):
        """What `predict` returns for no images: the shapes of its outputs with 0 in front."""
        array = first_array(x)
        shape = self.inputs[0].shape if array is None else array.shape
        spec = self.compute_output_spec(keras.KerasTensor((None, *shape[1:]), dtype=self.inputs[0].dtype))

        def none(output):
            if None in output.shape[1:]:
                raise ValueError(
                    "predict got no batch, and the size of its outputs depends on the images'; expected at "
                    "least one batch, or an empty array (0, height, width, channels)."
                )
            return ops.convert_to_numpy(ops.zeros((0, *output.shape[1:]), output.dtype))

        return tree.map_structure(none, spec)


def sample(images):
    """Values of a few pixels of a batch as a NumPy array; None if only its shape is known."""
    if not hasattr(images, "__getitem__"):  # a TensorSpec
        return None
    return ops.convert_to_numpy(sample_pixels(images))


def warn_user(text):
    """Warn at the line of the program that called Keras or focalnets, however deep the call is by now."""
    frame, level, outermost = sys._getframe(1), 1, 1
    while frame is not None:
        level += 1
        if frame.f_globals.get("__name__", "").split(".")[0] in ("keras", "focalnets"):
            outermost = level
        frame = frame.f_back
    warnings.warn(text, stacklevel=outermost + 1)
