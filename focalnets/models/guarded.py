"""GuardedModel: a Keras model that survives wrong input and looks at the first batch of each call.

What Keras 3.15 does not do, and this does:

- No images in, no results out: `predict` of an empty array returns an empty array. Keras ends with an
  `UnboundLocalError` (torch), or loses the weights (JAX).
- On JAX, Keras takes the arrays away from the variables while `fit`, `evaluate` and `predict` run, and an
  exception leaves the model without weights. Here they return, with the values of the last complete step.
  What cannot be restored: arrays that a step had already consumed when it failed on the device itself
  (out of memory). The exception then says so.
- The first batch of each `fit`, `evaluate`, `predict` and `predict_on_batch` goes to `check_first_batch`
  before it is used. Later batches cost nothing. It is the batch itself, whatever the data come from: nothing
  is read twice. TensorFlow's `fit` and `evaluate` hide their batches, so there arrays are looked at before
  the call, and of a `tf.data.Dataset` only the shape is known.
"""

import contextlib
import functools
import itertools
import sys
import warnings

import keras
from keras import ops, tree

from focalnets.pixel_range import sample_pixels

_LOST = (
    "The step failed on the device after JAX had taken over the memory of the weights: they are lost. Load "
    "the model again."
)


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
        self.taken = []  # (variable, array) that Keras took away from it, on JAX


@keras.saving.register_keras_serializable(package="focalnets")
@in_h5_files
class GuardedModel(keras.Model):
    """See the module. Subclasses define `check_first_batch` and `trained_on`."""

    _call = None

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

    @functools.wraps(keras.Model.fit)
    def fit(self, x=None, *arguments, **keywords):
        self._refuse(x, "fit")
        self._rebuild_optimizer()
        with self._guarded("fit", x):
            return super().fit(x, *arguments, **keywords)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, x=None, *arguments, **keywords):
        self._refuse(x, "evaluate")
        with self._guarded("evaluate", x):
            return super().evaluate(x, *arguments, **keywords)

    @functools.wraps(keras.Model.predict)
    def predict(self, x, *arguments, **keywords):
        if _is_empty(x):
            return self._outputs_for_none(x)
        self._refuse(x, "predict")
        with self._guarded("predict", x):
            return super().predict(x, *arguments, **keywords)

    @functools.wraps(keras.Model.predict_on_batch)
    def predict_on_batch(self, x):
        if _is_empty(x):
            return self._outputs_for_none(x)
        self._refuse(x, "predict_on_batch")
        with self._guarded("predict_on_batch", x):
            return super().predict_on_batch(x)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, x, *arguments, **keywords):
        self._rebuild_optimizer()
        result = super().train_on_batch(x, *arguments, **keywords)
        self._record_size(_images(x))
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
            images = _images(first)
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
                images = _images(getattr(x, "element_spec", x))
                self._look(images, call)
            yield
        except BaseException as error:
            self._give_back(call, error)
            raise
        finally:
            self._call = outer
        if verb == "fit":
            self._record_size(images)

    def _get_jax_state(self, purge_model_variables=False, **which):
        """Keras' own method, on JAX: take the arrays out of the variables. They are remembered here."""
        groups = (
            ("trainable_variables", lambda: self.trainable_variables),
            ("non_trainable_variables", lambda: self.non_trainable_variables),
            ("optimizer_variables", lambda: self.optimizer.variables),
            ("metrics_variables", lambda: self.metrics_variables),
        )
        variables = [variables() for name, variables in groups if which.get(name)]
        state = super()._get_jax_state(purge_model_variables=purge_model_variables, **which)
        if self._call is not None and purge_model_variables:
            pairs = (zip(*both, strict=True) for both in zip(variables, state, strict=True))
            self._call.taken = [pair for group in pairs for pair in group]
        return state

    def _give_back(self, call, error):
        """On JAX, undo what `_get_jax_state` did."""
        if not call.taken:
            return
        with contextlib.suppress(RuntimeError):  # of arrays that are deleted
            self.jax_state_sync()  # what the last complete step left
        self._jax_state = None
        for variable, array in call.taken:
            if variable._value is None and not array.is_deleted():
                variable.assign(array)
        lost = (variable._value is None or variable._value.is_deleted() for variable, _ in call.taken)
        if any(lost):
            error.add_note(_LOST)

    def _refuse(self, x, verb):
        """Say of an array that is not a batch of images what it is, in place of Keras, which prints it."""
        array, channels = _first_array(x), self.inputs[0].shape[-1]
        shape = () if array is None else tuple(array.shape)
        if _is_empty(x):
            got = "no batch" if array is None else f"an array of shape {shape}"
            raise ValueError(f"{verb} got {got}; expected at least one image.")
        without_channels = len(shape) == 3 and channels == 1  # which Keras adds
        if array is not None and len(shape) != 4 and not without_channels:
            one = " This looks like one image: give images[None]." if shape[2:] == (channels,) else ""
            raise ValueError(
                f"{verb} got an array of shape {shape}; expected (N, height, width, {channels}).{one}"
            )

    def _outputs_for_none(self, x):
        """What `predict` returns for no images: the shapes of its outputs with 0 in front."""
        array = _first_array(x)
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


def _first_array(x):
    """The first array, or shape of one, in what Keras takes as x or as a batch; None if there is none."""
    if isinstance(x, list | tuple | dict):
        x = next(iter(tree.flatten(x)), None)
    return x if hasattr(x, "shape") else None


def _images(x):
    """The same if it is a batch of images, (N, H, W, C)."""
    array = _first_array(x)
    try:
        return array if array is not None and len(array.shape) == 4 else None
    except ValueError:  # a TensorSpec of unknown rank
        return None


def _is_empty(x):
    array = _first_array(x)
    if array is not None:
        return len(array.shape) > 0 and array.shape[0] == 0
    try:
        return len(x) == 0  # a PyDataset, a DataLoader, a tf.data.Dataset, []
    except (TypeError, NotImplementedError):  # None, a generator, endless data
        return False
