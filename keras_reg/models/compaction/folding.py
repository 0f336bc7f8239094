"""A model without its gates: they go into the weights beside them, or become a multiplication that Keras knows."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_reg.layers import GatedKernel
from keras_reg.layers.gate import Gate
from keras_reg.layers.gated_kernel import KINDS
from keras_reg.models.compaction.compaction import Compaction
from keras_reg.models.compaction.graphs import graph_of
from keras_reg.models.compaction.rule import Rule
from keras_reg.models.compaction.rules.gates import GatedKernelRule, GateRule, factors
from keras_reg.models.compaction.signals import Signal
from keras_reg.models.compaction.slots import resolve
from keras_reg.models.compaction.transfer import assign
from keras_reg.weights import layers_of, read

_LINEAR = (layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.Identity, layers.Flatten)
_LINEAR += tuple(getattr(layers, f"{kind}AveragePooling{n}D") for kind in ("", "Global") for n in (1, 2, 3))
_POSITIVE = tuple(getattr(layers, f"{kind}MaxPooling{n}D") for kind in ("", "Global") for n in (1, 2, 3))
"""What a factor for each channel goes through, if it is not negative."""


@dataclass(frozen=True)
class Fold:
    """Numbers that a weight of a new layer is multiplied by, in a shape that broadcasts to it."""

    rule: Rule
    path: str
    factors: np.ndarray


def without_gates(model: Any) -> Any:
    """The same model with its gates as they are when it predicts; itself, if it has none.

    Raises:
        ValueError: If gates are in a model whose graph cannot be followed.
    """
    if not isinstance(model, keras.Model) or not any(isinstance(layer, (Gate, GatedKernel)) for layer in layers_of(model)):
        return model
    compaction = Compaction(model)
    compaction.keep_all()
    folds = []
    for rule in compaction.rules:
        if isinstance(rule, GateRule):
            found = _into_readers(rule, compaction) or _into_producer(rule, compaction)
            rule.becomes = "nothing" if found else "rescaling"
            folds += found or []
        elif isinstance(rule, GatedKernelRule):
            rule.becomes = "nothing"
            folds.append(Fold(rule, "kernel", factors(rule.layer.gate, len(rule.layer.kernel.shape))))
    new = compaction.build()
    for fold in folds:
        variable = resolve(compaction.tracer.maker.rebuilt(fold.rule.layer), fold.path)
        assign(variable, read(variable) * fold.factors)
    return new


Call = tuple[Rule, list[Signal], list[Signal]]


def _calls(compaction: Compaction, rule: Rule | None = None) -> list[Call]:
    """Those of a rule, or all; those of a model within the model are those of its layers."""
    return [call for call in compaction.tracer.calls if graph_of(call[0].layer) is None and rule in (None, call[0])]


def _consumers(signal: Signal, compaction: Compaction) -> list[Call] | None:
    """What is called on it; `None` if it is an output of the model."""
    if any(signal is output for output in compaction.outputs):
        return None
    return [call for call in _calls(compaction) if any(signal is one for one in call[1])]


def _into_readers(rule: GateRule, compaction: Compaction) -> list[Fold] | None:
    """Into the kernels of all layers that read what the gates have multiplied, and nothing else."""
    readers: dict[int, list[Fold]] = {}
    for _, (signal,), (output,) in _calls(compaction, rule):
        gates = factors(rule.layer, len(signal.shape)).ravel()
        if rule.barred or not _further(output, gates, compaction, readers):
            return None
    for found in readers.values():
        reader = found[0].rule
        alike = all(np.array_equal(found[0].factors, fold.factors) for fold in found)
        if not alike or len(found) != len(_calls(compaction, reader)) or reader.barred:
            return None
    return [found[0] for found in readers.values()]


def _further(signal: Signal, gates: np.ndarray, compaction: Compaction, readers: dict[int, list[Fold]]) -> bool:
    """Collects the kernels that read a signal, directly or through layers that let factors pass; whether nothing else does."""
    consumers = _consumers(signal, compaction)
    for rule, _, outputs in consumers or ():
        if isinstance(rule.layer, KINDS):
            found = _kernel(rule, signal.units, gates, compaction, reads=True)
            if found is None:
                return False
            readers.setdefault(id(rule), []).extend(found)
        elif isinstance(rule.layer, _LINEAR) or (isinstance(rule.layer, _POSITIVE) and (gates >= 0).all()):
            (output,) = outputs
            times = 0 if output.axis is None else len(output.units) // len(gates)
            if not times or not np.array_equal(output.units, np.tile(signal.units, times)):
                return False
            if not _further(output, np.tile(gates, times), compaction, readers):
                return False
        else:
            return False
    return bool(consumers)


def _into_producer(rule: GateRule, compaction: Compaction) -> list[Fold] | None:
    """Into the kernel and bias of the layer that makes what they multiply, through an activation that lets factors pass."""
    calls = _calls(compaction, rule)
    if rule.barred or len(calls) != 1 or len(_consumers(signal := calls[0][1][0], compaction) or ()) != 1:
        return None
    gates = factors(rule.layer, len(signal.shape)).ravel()
    for producer, _, outputs in _calls(compaction):
        if any(signal is one for one in outputs) and isinstance(producer.layer, KINDS) and len(_calls(compaction, producer)) == 1:
            activation = producer.layer.activation
            if activation is keras.activations.linear or (activation is keras.activations.relu and (gates >= 0).all()):
                return _kernel(producer, signal.units, gates, compaction, reads=False)
    return None


def _kernel(rule: Rule, units: np.ndarray, gates: np.ndarray, compaction: Compaction, reads: bool) -> list[Fold] | None:
    """Along the axis of the kernel that reads these units, or along those of kernel and bias that make them."""
    folds, roots = [], compaction.tracer.graph.roots()
    for slot in rule.slots():
        variable = slot.variable(rule.layer)
        for axis, own in slot.axes.items():
            fits = isinstance(axis, int) and (axis in slot.produces) != reads and np.array_equal(roots[own], roots[units])
            if fits and variable is not None:
                shape = [1] * len(variable.shape)
                shape[axis] = len(gates)
                folds.append(Fold(rule, slot.path, gates.reshape(shape)))
    whole = reads or any(fold.path == "bias" for fold in folds) or rule.layer.bias is None
    return folds if whole and any(fold.path == "kernel" for fold in folds) else None
