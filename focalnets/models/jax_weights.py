"""Protection of weights from exceptions in `fit`, `evaluate` and `predict` on JAX.

During these calls, Keras 3.15 removes the arrays from the variables. It restores them at the end, but not
after an exception. A batch of a wrong shape therefore deletes the weights of a model, and every later call
fails with "'NoneType' object is not callable". A user's model around a network, such as
`keras.Sequential([augmentation, classifier])`, has a class of Keras, so no method of focalnets could restore
its weights. The methods of Keras are therefore wrapped, for models that contain a layer of this package.
Without an exception, they behave as before.

The restored values are those of the last complete step. Arrays that a step has consumed before it fails on
the device (out of memory) cannot be restored. The exception reports this.
"""

import contextlib
import functools

import keras

_LOST = "The step failed on the device after JAX had reused the memory of the weights. Load the model again."

_taken = {}  # id of a model in `fit`, `evaluate` or `predict` -> list of (variable, removed array)


def keep_weights_after_errors():
    """Wrap the methods of Keras' trainer for JAX."""
    trainer = next((base for base in keras.Model.__mro__ if "_get_jax_state" in vars(base)), None)
    if trainer is None:  # a newer Keras, for which tests/models/test_first_batch.py fails
        return
    trainer._get_jax_state = _remembering(trainer._get_jax_state)
    for verb in ("fit", "evaluate", "predict"):
        setattr(trainer, verb, _restoring(getattr(trainer, verb)))


def _remembering(method):
    """Wrap Keras' `_get_jax_state`, which removes the arrays from the variables, to store the arrays."""

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
        if not _contains_focalnets_layer(model):
            return method(model, *arguments, **keywords)
        outer, _taken[id(model)] = _taken.get(id(model)), []
        try:
            return method(model, *arguments, **keywords)
        except BaseException as error:
            _restore(model, _taken[id(model)], error)
            raise
        finally:
            if outer is None:
                del _taken[id(model)]
            else:  # this is the validation of a `fit`
                _taken[id(model)] = outer

    return run


def _contains_focalnets_layer(model):
    return any(type(layer).__module__.split(".")[0] == "focalnets" for layer in model._flatten_layers())


def _restore(model, taken, error):
    if not taken:
        return
    with contextlib.suppress(RuntimeError):  # arrays are deleted
        model.jax_state_sync()  # values of the last complete step
    model._jax_state = None
    for variable, array in taken:
        if variable._value is None and not array.is_deleted():
            variable.assign(array)
    if any(variable._value is None or variable._value.is_deleted() for variable, _ in taken):
        error.add_note(_LOST)
