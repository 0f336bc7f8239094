"""Silent mistakes around regularizers: what a model has that does nothing, will be lost, or was probably not meant."""

import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_reg._registration import is_registered
from keras_reg.binding import is_record
from keras_reg.contract import regularizer_attributes, structure_of
from keras_reg.models.attachment.carrier import carried
from keras_reg.models.attachment.rebuilt import rebuilt_weights, same_regularizer, units
from keras_reg.regularizers.penalty import Penalty
from keras_reg.regularizers.sums import parts_of
from keras_reg.running import innermost, proximal_optimizers
from keras_reg.weights import layers_of, own_variables

ADAMS = ("Adam", "Adamax", "Nadam", "AdamW")


@dataclass(frozen=True)
class Finding:
    """A mistake: of which kind, where, and how it is mended.

    `sure` says that what is written does not happen; the others may have been meant.
    """

    kind: str
    weights: tuple[str, ...]
    message: str
    remedy: str
    sure: bool = True


KINDS = {
    "inactive": (
        "on the layer, not on the weight: it does nothing until the model is loaded again",
        "`attach(model, penalty, include=…)`",
        True,
    ),
    "lost": (
        "on the weight, not in the config: gone after saving or cloning",
        "`attach` the same penalty again, which keeps it",
        True,
    ),
    "unregistered": (
        "a penalty whose class is not registered with Keras: no saved model with it can be loaded, or cloned",
        "`@keras.saving.register_keras_serializable(package)` above the class",
        True,
    ),
    "frozen": ("frozen, so that its penalty is no part of the loss", "make it trainable, or `detach` it", True),
    "no-op": ("all strengths are 0 (as those of the string 'l1l2' are)", "give a strength, as in `L1L2(l1=1e-5, l2=1e-4)`", True),
    "unapplied": (
        "proximal, under an optimizer that does not apply it: its gradient acts, and gives no exact zeros",
        "compile with `keras_reg.optimizers.Proximal(optimizer)`",
        True,
    ),
    "activity": (
        "a proximal penalty on a layer's outputs: a prox is for weights, so its gradient acts, and gives no exact zeros",
        "`proximal=False` there, or the penalty as `kernel_regularizer`",
        True,
    ),
    "twice": (
        "its penalty is in the loss a second time, through `add_loss`",
        "keep the regularizer or the `add_loss`, not both",
        True,
    ),
    "normalization": ("scale or offset of a normalization layer", "`detach` it, unless channels are to be switched off", False),
    "bias": ("a bias, which needs no penalty against overfitting", "`detach` it, unless that is meant", False),
    "adam-l2": (
        "L2 in the loss under an Adam, which divides it out: large gradients are decayed least",
        "`AdamW(weight_decay=…)`, or `L2(…, proximal=True)` under `Proximal`",
        False,
    ),
    "decay-l2": ("L2 in the loss and weight decay in the optimizer at once", "keep one of them", False),
    "large": ("penalties are larger than the loss on the data at the start", "lower the strengths, or raise them along a schedule", False),
}
"""What is found, what to do about it, and whether it is sure to be a mistake."""


def find(model: Any, thorough: bool = True) -> list[Finding]:
    """The mistakes that show without data.

    Args:
        model: A Keras model or layer.
        thorough: Whether to rebuild every layer with a penalty from its config, rather than those alone that look as if it were needed.
    """
    name_of = {id(v): v.path.removeprefix(f"{model.name}/") for v in model.weights}
    found: dict[str, dict[str, None]] = {}

    def note(kind: str, variable: Any) -> None:
        found.setdefault(kind, {}).setdefault(name_of[id(variable)])

    for unit in units(model):
        if thorough or not _looks_consistent(unit):
            _compare_with_rebuilt(unit, note)
    for layer in layers_of(model):
        regularizer = getattr(layer, "activity_regularizer", None)
        if isinstance(regularizer, Penalty) and regularizer.proximal:
            found.setdefault("activity", {}).setdefault((layer.path or layer.name).removeprefix(f"{model.name}/"))
    owners = {id(v): layer for layer in layers_of(model) for v in own_variables(layer)}
    optimizer = getattr(model, "optimizer", None)
    proximal = list(proximal_optimizers(optimizer)) if optimizer is not None else []
    base = innermost(optimizer)
    for variable in model.weights:
        if variable.regularizer is not None:
            for kind in _of_weight(variable, owners.get(id(variable)), optimizer, proximal, base):
                note(kind, variable)
    return [finding(kind, tuple(found[kind])) for kind in KINDS if kind in found]


def finding(kind: str, weights: tuple[str, ...], message: str = "") -> Finding:
    text, remedy, sure = KINDS[kind]
    return Finding(kind, weights, message or text, remedy, sure)


def _of_weight(variable: Any, owner: Any, optimizer: Any, proximal: list, base: Any) -> Iterator[str]:
    regularizer = variable.regularizer
    if not variable.trainable:
        # A kernel is frozen for its LoRA weights, which have its penalty too.
        if not getattr(owner, "lora_enabled", False):
            yield "frozen"
        return
    if does_nothing(regularizer):
        yield "no-op"
        return
    if unregistered(regularizer):
        yield "unregistered"
    if structure_of(regularizer) is not None:
        pass  # of all that makes a unit, biases and normalization are a part
    elif "Norm" in type(owner).__name__:
        yield "normalization"
    elif variable.name == "bias":
        yield "bias"
    by_prox = isinstance(regularizer, Penalty) and regularizer.proximal
    if by_prox and optimizer is not None and not any(not o.built or o.applies_prox_to(variable) for o in proximal):
        yield "unapplied"
    if base is not None and any(_l2(part) for part in parts_of(regularizer) if not getattr(part, "proximal", False)):
        if getattr(base, "weight_decay", None):
            yield "decay-l2"
        elif type(base).__name__ in ADAMS:
            yield "adam-l2"


def _compare_with_rebuilt(unit: Any, note: Callable[[str, Any], None]) -> None:
    anything = any(v.regularizer is not None for v in unit.weights) or any(
        getattr(layer, name) is not None for layer in layers_of(unit) for name in regularizer_attributes(layer)
    )
    if not anything:
        return
    try:
        again = [v.regularizer for v in rebuilt_weights(unit)]
    except ValueError:
        # Keras cannot load it either; then its weights are loaded into what the user's code makes, and what that does nobody sees.
        for kind, variable in _inconsistent(unit):
            note(kind, variable)
        return
    for variable, rebuilt in zip(unit.weights, again, strict=True):
        present = variable.regularizer
        if present is None and rebuilt is not None and variable.trainable:
            note("inactive", variable)
        elif present is not None and not _alike(present, rebuilt):
            note("lost", variable)


def _alike(present: Any, rebuilt: Any) -> bool:
    if same_regularizer(present, rebuilt):
        return True
    # Its optimizer keeps a strength that it has moved.
    return is_record(present) and present.claims and same_regularizer(present.configured, rebuilt)


def _looks_consistent(unit: Any) -> bool:
    return not any(True for _ in _inconsistent(unit))


def _inconsistent(unit: Any) -> Iterator[tuple[str, Any]]:
    """Weights whose layer has another regularizer than they have, as far as Keras's own layers tell by their attributes."""
    around = {id(v) for v in carried(unit)}
    for layer in layers_of(unit):
        attributes = [getattr(layer, name) for name in regularizer_attributes(layer)]
        held = [regularizer for regularizer in attributes if regularizer is not None]
        for regularizer in held:
            if not any(v.regularizer is not None and _alike(v.regularizer, regularizer) for v in layer.weights):
                for variable in own_variables(layer):
                    if variable.trainable and variable.regularizer is None and "bias" not in variable.name:
                        yield "inactive", variable
        if attributes and type(layer).__module__.split(".")[0] == "keras":
            for variable in own_variables(layer):
                present = variable.regularizer
                if present is not None and id(variable) not in around and not any(_alike(present, r) for r in held):
                    yield "lost", variable


def _l2(regularizer: Any) -> bool:
    return regularizer.__class__.__name__ in ("L2", "L1L2") and regularizer.get_config().get("l2", 0) > 0


def describe(regularizer: Any) -> str:
    """A regularizer with its arguments; Keras's own say no more than their class."""
    if isinstance(regularizer, Penalty) or not hasattr(regularizer, "get_config"):
        return repr(regularizer)
    arguments = (f"{k}={v:g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in regularizer.get_config().items())
    return f"{regularizer.__class__.__name__}({', '.join(arguments)})"


def unregistered(regularizer: Any) -> list[str]:
    """The classes of it and of what is in it that Keras could not load."""
    kinds = {one.__class__ for part in (regularizer, *parts_of(regularizer)) for one in (part, getattr(part, "penalty", part))}
    return sorted(kind.__name__ for kind in kinds if kind.__module__.split(".")[0] != "keras" and not is_registered(kind))


def does_nothing(regularizer: Any) -> bool:
    """Whether all its strengths are 0, or a constraint holds anyway."""
    if isinstance(regularizer, Penalty):
        return all(getattr(part, "strength", None) == getattr(part, "idle", 0) for part in parts_of(regularizer))
    if not regularizer.__class__.__module__.startswith("keras."):
        return False
    # One matrix of dependent rows and columns: also what asks for orthogonality has a value there.
    return float(keras.ops.convert_to_numpy(regularizer(keras.ops.convert_to_tensor(np.ones((2, 2), "float32"))))) == 0


_warned: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def warn_of_mistakes(model: Any) -> None:
    """Warn, once for each, of what is sure to be a mistake; `keras_reg.models.check` lists the doubtful too."""
    if not model.built:
        return
    # A schedule may start at strength 0; of a prox that is not applied the penalty itself warns; custom objects may be given on loading.
    starting = {v.path.removeprefix(f"{model.name}/") for v in model.weights if isinstance(v.regularizer, Penalty)}
    known = _warned.setdefault(model, set())
    new = []
    for finding in find(model, thorough=False):
        weights = sorted(set(finding.weights) - (starting if finding.kind == "no-op" else set()))
        if (
            finding.sure
            and finding.kind not in ("unapplied", "activity", "unregistered")
            and weights
            and (finding.kind, *weights) not in known
        ):
            known.add((finding.kind, *weights))
            where = ", ".join(weights[:4]) + (", …" if len(weights) > 4 else "")
            new.append(f"{where}: {finding.message}. To mend it: {finding.remedy}.")
    if new:
        lines = "\n".join(new)
        warnings.warn(f"The penalties of {model.name!r} are not what they seem (see `keras_reg.models.check`):\n{lines}", stacklevel=3)
