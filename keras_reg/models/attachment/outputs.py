"""Whether a model's outputs are what its crossentropies take them for: probabilities or logits."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, losses, ops, tree

from keras_reg._keras import origin
from keras_reg.losses import LabelSmoothingCrossentropy, OnlineLabelSmoothingCrossentropy, label_smoothing_crossentropy
from keras_reg.models.attachment.mistakes import Finding

PROBABILITIES, LOGITS, NOT_NEGATIVE = "probabilities", "logits", "not negative"
"""What outputs may be known to be. The last is neither for sure: scaled to sum to 1, they are probabilities."""

BINARY = (losses.BinaryCrossentropy, losses.BinaryFocalCrossentropy)
CATEGORICAL = (
    *(losses.CategoricalCrossentropy, losses.SparseCategoricalCrossentropy, losses.CategoricalFocalCrossentropy),
    *(LabelSmoothingCrossentropy, OnlineLabelSmoothingCrossentropy),
)
FUNCTIONS = {
    losses.binary_crossentropy: True,
    losses.binary_focal_crossentropy: True,
    losses.categorical_crossentropy: False,
    losses.sparse_categorical_crossentropy: False,
    losses.categorical_focal_crossentropy: False,
    label_smoothing_crossentropy: False,
}
"""Each with whether it is binary."""

ACTIVATIONS = {
    **dict.fromkeys(("softmax", "sigmoid", "hard_sigmoid", "sparse_sigmoid", "sparsemax"), PROBABILITIES),
    **dict.fromkeys(("relu", "relu6", "softplus", "squareplus", "sparse_plus"), NOT_NEGATIVE),
    **dict.fromkeys(("linear", "log_softmax", "tanh", "hard_tanh", "softsign", "gelu", "silu", "hard_silu", "mish"), LOGITS),
    **dict.fromkeys(("leaky_relu", "elu", "selu", "celu"), LOGITS),
}
WITH_ACTIVATION = (
    *(layers.Dense, layers.EinsumDense, layers.Activation),
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    *(layers.SeparableConv1D, layers.SeparableConv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D),
)
"""What applies its activation last."""
OPERATIONS = {"Softmax": PROBABILITIES, "Sigmoid": PROBABILITIES, "HardSigmoid": PROBABILITIES, "LogSoftmax": LOGITS}
PASSING = (layers.Reshape, layers.Flatten, layers.Permute, layers.Identity, layers.Cropping1D, layers.Cropping2D, layers.Cropping3D)
PASSING_OPERATIONS = ("Reshape", "Squeeze", "ExpandDims", "Transpose", "Cast", "Moveaxis", "GetItem", "Identity")


@dataclass(frozen=True)
class Expectation:
    """A crossentropy at an output."""

    from_logits: bool
    binary: bool
    axis: int

    def judge(self, found: str, source: str) -> Finding | None:
        """The mistake, if there is one, in outputs of a known kind; `source` says from what it is known."""
        if self.from_logits and found == PROBABILITIES:
            message = f"a crossentropy takes logits (from_logits=True), but {source}"
            remedy = "no activation at the end of the model, which loses fewest digits, or `from_logits=False`"
            return Finding("not-logits", (), message, remedy)
        if not self.from_logits and found != PROBABILITIES:
            last = "sigmoid" if self.binary else "softmax"
            message = f"a crossentropy takes probabilities (from_logits=False), but {source}"
            remedy = f"the loss as an object with `from_logits=True`, or {last} at the end of the model"
            return Finding("not-probabilities", (), message, remedy, sure=found == LOGITS)
        return None


def outputs_against_losses(model: Any, outputs: Any = None) -> list[Finding]:
    """What the layers tell of a compiled model's outputs; given the outputs on a batch, what these tell where the layers do not."""
    if outputs is not None:
        structure = outputs
    elif isinstance(model, keras.Sequential):
        structure = 0
    else:
        structure = model.output if _is_graph(model) else None
    if structure is None or not getattr(model, "compiled", False):
        return []
    findings, count = [], len(tree.flatten(structure))
    for place, expectation in _expectations(model, structure):
        told = _told_by_layers(model, place)
        if told is not None:
            finding = expectation.judge(*told)
        elif outputs is not None:
            values = ops.convert_to_numpy(ops.cast(tree.flatten(outputs)[place], "float32"))
            finding = _judge_values(expectation, values, "the output" if count == 1 else f"output {place + 1} of {count}")
        else:
            finding = None
        if finding is not None and finding not in findings:
            findings.append(finding)
    return findings


def _is_graph(model: Any) -> bool:
    """Whether it is a functional model, which computes what its graph says."""
    return isinstance(model, keras.Model) and hasattr(model, "operations") and _of_keras(model)


def _of_keras(layer: Any) -> bool:
    """Whether what it computes is written by Keras, not by whoever subclassed it."""
    return type(layer).call.__module__.split(".")[0] == "keras"


def _expectations(model: Any, outputs: Any) -> Iterator[tuple[int, Expectation]]:
    """The crossentropies among the losses, each with the place of its output, as `compile` pairs them."""
    places = tree.pack_sequence_as(outputs, list(range(len(tree.flatten(outputs)))))
    names = getattr(model, "output_names", None)

    def pair(loss: Any, places: Any) -> Iterator[tuple[int, Any]]:
        flat = tree.flatten(places)
        if isinstance(loss, dict) and not isinstance(places, dict) and names is not None and len(names) == len(flat):
            places = dict(zip(names, flat, strict=True))
        if not isinstance(loss, (dict, list, tuple)):
            yield from ((place, loss) for place in flat)
        elif isinstance(loss, dict):
            for key in loss if isinstance(places, dict) else ():
                if key in places:
                    yield from pair(loss[key], places[key])
        elif len(flat) == len(loss) and not any(isinstance(part, (dict, list, tuple)) for part in loss):
            yield from zip(flat, loss, strict=True)
        elif isinstance(places, (list, tuple)):
            for part, own in zip(loss, places, strict=False):
                yield from pair(part, own)
        elif not isinstance(places, dict):  # several losses on one output
            for part in loss:
                yield from pair(part, places)

    for place, loss in pair(model.loss, places):
        expectation = _expectation(loss)
        if expectation is not None:
            yield place, expectation


def _expectation(loss: Any) -> Expectation | None:
    options: dict = {}
    while isinstance(loss, functools.partial) and not loss.args:
        loss, options = loss.func, {**loss.keywords, **options}
    if isinstance(loss, str):
        loss = "categorical_crossentropy" if loss.lower() in ("crossentropy", "ce") else loss
        try:
            loss = losses.get(loss)
        except ValueError:
            return None
    if isinstance(loss, (*BINARY, *CATEGORICAL)):
        return Expectation(bool(loss.from_logits), isinstance(loss, BINARY), getattr(loss, "axis", -1))
    if callable(loss) and getattr(loss, "__hash__", None) and loss in FUNCTIONS:
        return Expectation(bool(options.get("from_logits", False)), FUNCTIONS[loss], options.get("axis", -1))
    return None


def _told_by_layers(model: Any, place: int = 0) -> tuple[str, str] | None:
    """What an output is known to be, and from what; `None` where the layers do not tell."""
    if isinstance(model, keras.Sequential):
        ending = [layer for layer in model.layers if not _passes(layer)]
        return _told_by(ending[-1], 0) if ending and _of_keras(model) else None
    if not _is_graph(model):
        return None
    operation, inputs, place = origin(tree.flatten(model.output)[place])
    while _passes(operation):
        operation, inputs, place = origin(inputs[0])
    return _told_by(operation, place)


def _told_by(operation: Any, place: int) -> tuple[str, str] | None:
    if isinstance(operation, keras.Model):
        return _told_by_layers(operation, place)
    name = type(operation).__name__
    if not isinstance(operation, keras.Layer):  # one of `keras.ops`
        kind = OPERATIONS.get(name) if type(operation).__module__.split(".")[0] == "keras" else None
        return kind and (kind, f"the model ends in `ops.{name}`")
    if not _of_keras(operation):
        return None
    if isinstance(operation, layers.TimeDistributed):
        return _told_by(operation.layer, place)
    if isinstance(operation, layers.Softmax):
        return PROBABILITIES, f"the last layer, {operation.name!r}, is a softmax"
    if isinstance(operation, WITH_ACTIVATION):
        name = getattr(operation.activation, "__name__", "")
        if name in ACTIVATIONS and operation.activation is keras.activations.get(name):
            return ACTIVATIONS[name], f"the activation of the last layer, {operation.name!r}, is {name}"
    return None


def _passes(operation: Any) -> bool:
    """Whether values come out as they went in, in another shape or dtype."""
    if isinstance(operation, layers.Activation):
        return operation.activation is keras.activations.linear
    if isinstance(operation, keras.Layer):
        return isinstance(operation, PASSING) and _of_keras(operation)
    return type(operation).__name__ in PASSING_OPERATIONS and type(operation).__module__.split(".")[0] == "keras"


def _judge_values(expectation: Expectation, values: np.ndarray, name: str) -> Finding | None:
    if not values.size or not np.all(np.isfinite(values)):
        return None
    if values.min() < -1e-3 or (expectation.binary and values.max() > 1 + 1e-3):
        return expectation.judge(LOGITS, f"{name} goes from {values.min():.3g} to {values.max():.3g} on the batch")
    if values.max() > 1 + 1e-3:
        return expectation.judge(NOT_NEGATIVE, f"{name} goes up to {values.max():.3g} on the batch")
    if expectation.binary:  # small logits may lie between 0 and 1 as well
        finding = expectation.judge(PROBABILITIES, f"all of {name} lies between 0 and 1 on the batch")
        return finding and Finding(finding.kind, (), finding.message, finding.remedy, sure=False)
    sums = values.sum(axis=expectation.axis)
    if not np.allclose(sums, 1, atol=1e-2):
        return expectation.judge(NOT_NEGATIVE, f"{name} sums to {sums.min():.3g} to {sums.max():.3g} over the classes on the batch")
    return expectation.judge(PROBABILITIES, f"{name} sums to 1 over the classes on the batch") if sums.size < values.size else None
