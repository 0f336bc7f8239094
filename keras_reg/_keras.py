"""What is not public in Keras and needed all the same: every name is listed here, and missed with a clear error."""

import collections
import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import keras

try:
    from keras.src.backend import get_keras_mask, set_keras_mask
    from keras.src.backend.common import global_state
    from keras.src.backend.common.stateless_scope import in_stateless_scope as in_stateless_scope
    from keras.src.saving.keras_saveable import KerasSaveable as KerasSaveable
except ImportError as error:  # pragma: no cover - a Keras to come
    raise ImportError(f"keras_reg needs what this version of Keras has not: {error}") from error

CHECKED = "3.12 to 3.15"
"""The versions of Keras on which all of this was tried."""

OF_CLASSES = {
    keras.layers.Layer: ("_flatten_layers", "_open_name_scope", "_untrack_variable"),
    keras.Model: ("_symbolic_build",),
    keras.optimizers.Optimizer: (
        "_backend_update_step",
        "_get_variable_index",
        "_track_variable",
        "_update_model_variables_moving_average",
        "_var_key",
    ),
}
"""Methods."""

OF_INSTANCES = {
    "layer": (
        "_build_shapes_dict",
        "_inbound_nodes",
        "_non_trainable_variables",
        "_seed_generators",
        "_tracker",
        "_trainable",
        "_trainable_variables",
    ),
    "model": ("_losses_override", "_metrics"),
    "compiled model": ("_compile_config",),
    "graph": ("_inputs_struct", "_nodes_by_depth", "_outputs_struct"),
    "optimizer": ("_trainable_variables", "_trainable_variables_indices", "_variables"),
}
"""Attributes, which no class has."""

ELSEWHERE = {
    "KerasTensor": ("_keras_history",),
    "Loss": ("_dtype", "_dtype_policy"),
    "Sequential": ("_functional",),
    "Functional": ("_functional_layer_ids", "_initialized", "_is_default"),
    "an optimizer with averages": ("_model_variables_moving_average",),
    "an optimizer that excludes weights from decay": (
        "_exclude_from_weight_decay",
        "_exclude_from_weight_decay_cache",
        "_exclude_from_weight_decay_pattern",
    ),
    "Adam, Adamax, RMSprop, Adagrad, Ftrl": ("_accumulators", "_average_gradients", "_linears", "_u", "_velocities", "_velocity_hats"),
    "Embedding": ("_embeddings",),
    "MultiHeadAttention": ("_key_dense", "_output_dense", "_output_shape", "_query_dense", "_use_gate", "_value_dense"),
    "TransformerDecoder of KerasHub": ("_cross_attention_layer",),
    "StringLookup": ("_lookup_layer",),
}
"""What is looked for where it is used, and tests would miss."""

_seen: collections.defaultdict[str, weakref.WeakSet] = collections.defaultdict(weakref.WeakSet)


def check_classes() -> None:
    """Raise an `ImportError` where Keras has none of these methods any more."""
    for kind, names in OF_CLASSES.items():
        _say(f"the class {kind.__name__}", [name for name in names if not hasattr(kind, name)], ImportError)


def check(kind: str, instance: Any) -> None:
    """Raise a `RuntimeError` where the first of its class lacks one of these attributes."""
    if type(instance) not in _seen[kind]:
        _say(
            f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}",
            [name for name in OF_INSTANCES[kind] if not hasattr(instance, name)],
            RuntimeError,
        )
        _seen[kind].add(type(instance))


def _say(whose: str, missing: list[str], error: type[Exception]) -> None:
    if missing:
        raise error(
            f"keras_reg needs {', '.join(f'`{name}`' for name in missing)} of {whose}, which Keras {keras.__version__} has not. It was "
            f"checked against Keras {CHECKED}: install one of these, or a newer keras_reg."
        )


check_classes()


def unlocked(layer: Any) -> Any:
    """The tracker of a layer, which takes no new state once the layer is built, for a `with` in which it does."""
    return _Unlocked(layer._tracker)


@contextlib.contextmanager
def names_kept() -> Iterator[None]:
    """Have the numbers in automatic names (`dense_2`) go on afterwards as if nothing had been made in the `with`."""
    before = dict(global_state.get_global_attribute(_NAMES) or {})
    try:
        yield
    finally:
        global_state.set_global_attribute(_NAMES, collections.defaultdict(int, before))


_NAMES = "object_name_uids"


class _Unlocked:
    def __init__(self, tracker: Any):
        self.tracker = tracker

    def __enter__(self) -> None:
        self.locked = self.tracker.locked
        self.tracker.unlock()

    def __exit__(self, *_: Any) -> None:
        if self.locked:
            self.tracker.lock()


def origin(symbol: Any) -> tuple[Any, list, int]:
    """What a symbol of a functional model comes from: the layer or operation, what went in, and the place among what came out."""
    operation, node, place = symbol._keras_history
    return operation, operation._inbound_nodes[node].input_tensors, place


def mask_of(tensor: Any) -> Any:
    """The mask that a Keras layer gave to its outputs, or `None`."""
    return get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Give a tensor a mask, as a layer does; tracers of JAX take no attribute of their own."""
    set_keras_mask(tensor, mask)
