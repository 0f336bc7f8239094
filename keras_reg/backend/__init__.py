"""The one place that knows which backend runs: the few functions that `keras.ops` has not, or that a backend does better by itself.

`plain` defines each of them in `keras.ops`. The module named after the backend overrides some by name; the choice is made once, at
import. Tensors without values (`KerasTensor`) always take the plain way.
"""

import functools
import importlib
from collections.abc import Callable

import keras

from keras_reg.backend import plain

_OWN = f"keras_reg.backend.{keras.backend.backend()}"
_own = importlib.import_module(_OWN) if keras.backend.backend() in ("tensorflow", "jax", "torch") else plain


def _chosen(name: str) -> Callable:
    definition, own = getattr(plain, name), getattr(_own, name, None)
    if own is None:
        return definition

    @functools.wraps(definition)
    def function(*arguments, **named):
        symbolic = any(isinstance(argument, keras.KerasTensor) for argument in arguments)
        return (definition if symbolic else own)(*arguments, **named)

    return function


alive = _chosen("alive")
can_be_seen = _chosen("can_be_seen")
class_ids = _chosen("class_ids")
compiled = _chosen("compiled")
distribution_scope = _chosen("distribution_scope")
is_compiling = _chosen("is_compiling")
is_first_process = _chosen("is_first_process")
look_up = _chosen("look_up")
loss_sees_the_optimizer = _chosen("loss_sees_the_optimizer")
materialized = _chosen("materialized")
nan_where = _chosen("nan_where")
norm = _chosen("norm")
numbers_suffice = _chosen("numbers_suffice")
only = _chosen("only")
outside_of_graphs = _chosen("outside_of_graphs")
pick = _chosen("pick")
read = _chosen("read")
replicas = _chosen("replicas")
rows_apart = _chosen("rows_apart")
scaled = _chosen("scaled")
smallest = _chosen("smallest")
smoothed_crossentropy = _chosen("smoothed_crossentropy")
steps_follow_the_metrics = _chosen("steps_follow_the_metrics")
table = _chosen("table")
value_and_gradient = _chosen("value_and_gradient")
