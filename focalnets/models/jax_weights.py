"""On JAX, weights survive an exception inside `fit`, `evaluate` and `predict`.

While these run, Keras 3.15 takes the arrays away from the variables. It returns them at the end, but not
after an exception: one batch of a wrong shape costs a model its weights, and every later call ends with
"'NoneType' object is not callable". Many networks of ours are part of a model that a user builds around
them, such as `keras.Sequential([augmentation, classifier])`. Its class is Keras' own, and Keras calls nothing
of ours when it fails. Therefore Keras' methods are wrapped, for models that contain a layer of this package.
Without an exception, they do what they did.

The values are those of the last complete step. What cannot be restored: arrays that a step had already
consumed when it failed on the device itself (out of memory). The exception then says so.
"""

import contextlib
import functools

import keras

_LOST = (
    "The step failed on the device after JAX had taken over the memory of the weights: they are lost. Load "
    "the model again."
)

_taken = {}  # id of a model in `fit`, `evaluate` or `predict` -> (variable, array) of each that was taken


def keep_weights_after_errors():
    """Wrap the methods of Keras' trainer for JAX."""
    trainer = next((base for base in keras.Model.__mro__ if "_get_jax_state" in vars(base)), None)
    if trainer is None:  # a newer Keras, which tests/models/test_first_batch.py checks
        return
    trainer._get_jax_state = _remembering(trainer._get_jax_state)
    for verb in ("fit", "evaluate", "predict"):
        setattr(trainer, verb, _restoring(getattr(trainer, verb)))


def _remembering(method):
    """Keras' `_get_jax_state`, which takes the arrays out of the variables: they are remembered here."""

    @functools.wraps(method)
    def get_state(model, *arguments, purge_model_variables=False, **which):
        groups = (
            ("trainable_variables", lambda: model.trainable_variables),
            ("non_trainable_variables", lambda: model.non_trainable_variables),
            ("optimizer_variables", lambda: model.optimizer.variables),
            ("metrics_variables", lambda: model.metrics_variables),
        )
        watched = purge_model_variables and id(model) in _taken
        variables = [variables() for name, variables in groups if watched and which.get(name)]
        state = method(model, *arguments, purge_model_variables=purge_model_variables, **which)
        if watched:
            pairs = (zip(*both, strict=True) for both in zip(variables, state, strict=True))
            _taken[id(model)] = [pair for group in pairs for pair in group]
        return state

    return get_state


def _restoring(method):
    @functools.wraps(method)
    def run(model, *arguments, **keywords):
        if not _is_ours(model):
            return method(model, *arguments, **keywords)
        outer, _taken[id(model)] = _taken.get(id(model)), []
        try:
            return method(model, *arguments, **keywords)
        except BaseException as error:
            _give_back(model, _taken[id(model)], error)
            raise
        finally:
            if outer is None:
                del _taken[id(model)]
            else:  # the `fit` that validates
                _taken[id(model)] = outer

    return run


def _is_ours(model):
    return any(type(layer).__module__.split(".")[0] == "focalnets" for layer in model._flatten_layers())


def _give_back(model, taken, error):
    """Undo what `_get_jax_state` did."""
    if not taken:
        return
    with contextlib.suppress(RuntimeError):  # of arrays that are deleted
        model.jax_state_sync()  # what the last complete step left
    model._jax_state = None
    for variable, array in taken:
        if variable._value is None and not array.is_deleted():
            variable.assign(array)
    if any(variable._value is None or variable._value.is_deleted() for variable, _ in taken):
        error.add_note(_LOST)
