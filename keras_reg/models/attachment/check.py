"""The silent mistakes around regularizers and losses, found in a model."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_reg.models.attachment.mistakes import Finding, find, finding
from keras_reg.models.attachment.outputs import outputs_against_losses
from keras_reg.models.table import html_table, text_table


@dataclass(frozen=True)
class Check:
    """What `keras_reg.models.check` found: `print` it, read `findings`, or call `raise_if_any()` in a test."""

    model: str
    findings: tuple[Finding, ...]

    def __bool__(self) -> bool:
        return bool(self.findings)

    def raise_if_any(self) -> None:
        """Raise a `ValueError` with the table, if there is anything in it."""
        if self.findings:
            raise ValueError(str(self))

    def _columns(self) -> dict[str, list[str]]:
        def where(weights):
            return ", ".join(weights[:2]) + (f" and {len(weights) - 2} more" if len(weights) > 2 else "")

        return {
            "": ["mistake" if row.sure else "doubtful" for row in self.findings],
            "weights": [where(row.weights) or "the whole model" for row in self.findings],
            "what is the matter": [row.message for row in self.findings],
            "what to do": [row.remedy for row in self.findings],
        }

    def __str__(self) -> str:
        if not self.findings:
            return f"{self.model!r}: nothing found."
        columns = self._columns()
        return f"{self.model!r}: {len(self.findings)} found.\n{text_table(columns, left=tuple(columns))}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self._columns()) if self.findings else f"<p>{self}</p>"


def check(model: Any, batch: tuple | None = None) -> Check:
    """Find the silent mistakes around regularizers and crossentropies, and say how to mend each.

    | kind | mistake |
    | --- | --- |
    | `"inactive"` | a regularizer was set on a built layer, where it does nothing until the model is loaded again |
    | `"lost"` | one was set on a weight and is not in the config: it is gone after saving or cloning |
    | `"unregistered"` | the class of one is not registered with Keras: no saved model with it can be loaded, or cloned |
    | `"frozen"` | a frozen weight's penalty is no part of the loss |
    | `"no-op"` | all strengths are 0, as those of the string `"l1l2"` are |
    | `"unapplied"` | a proximal penalty under an optimizer that does not apply it |
    | `"activity"` | a proximal penalty on a layer's outputs: a prox is for weights |
    | `"not-probabilities"` | a crossentropy with `from_logits=False` on outputs without softmax or sigmoid |
    | `"not-logits"` | one with `from_logits=True` on outputs with |
    | `"twice"` | with a batch: a penalty that is in the loss once more, through `add_loss` |

    and what may have been meant:

    | kind | doubtful |
    | --- | --- |
    | `"normalization"`, `"bias"` | penalties there |
    | `"adam-l2"` | L2 in the loss under Adam, Adamax or Nadam, where decoupled weight decay was probably meant |
    | `"decay-l2"` | L2 in the loss and weight decay in the optimizer at once |
    | `"large"` | with a batch: the penalties are larger than the loss on the data |

    Where layers do not tell what the outputs are, as those of a subclassed model, a batch does; what is not certain then is doubtful.
    `StrengthScheduler`, `TargetSparsity` and `WeightHistogram` warn of the mistakes in penalties that show without data when training
    starts.

    Args:
        model: A Keras model, compiled or not. Nothing of it changes.
        batch: `(x, y)` or `(x, y, sample_weight)`, for a compiled model: its loss is evaluated on it.

    Returns:
        What was found: a table when printed, `findings` with `kind`, `weights`, `message`, `remedy` and `sure`, and `raise_if_any()`.

    Layers with a penalty are rebuilt from their configs. Of one that Keras cannot rebuild, only what its attributes tell is known.

    Example:

    >>> import keras
    >>> from keras_reg.models import check
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden")])
    >>> model.layers[0].kernel_regularizer = keras.regularizers.L2(0.1)  # too late
    >>> [(finding.kind, finding.weights) for finding in check(model).findings]
    [('inactive', ('hidden/kernel',))]
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"Argument `model` must be a Keras model or layer. Received: model={model!r} (of type {type(model).__name__})")
    findings = find(model)
    if batch is not None:
        if not (isinstance(batch, (tuple, list)) and len(batch) in (2, 3)):
            raise ValueError(f"Argument `batch` must be (x, y) or (x, y, sample_weight). Received: {type(batch).__name__}")
        if not getattr(model, "compiled", False):
            raise ValueError("Argument `batch` needs a compiled model, whose loss is evaluated on it. Received: a model without a loss")
        findings += _on_batch(model, *batch)
    else:
        findings += outputs_against_losses(model)
    return Check(model.name, tuple(findings))


def _on_batch(model: Any, x: Any, y: Any, sample_weight: Any = None) -> list[Finding]:
    x, y, sample_weight = (
        part if part is None else keras.tree.map_structure(ops.convert_to_tensor, part) for part in (x, y, sample_weight)
    )
    # Metrics and statistics that are updated on the way stay in the scope.
    state = [(variable, ops.convert_to_tensor(variable)) for variable in model.trainable_variables]
    with keras.StatelessScope(state_mapping=state, collect_losses=True):
        outputs = model(x, training=False)
        total = _float(model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=False))
        losses = [_float(loss) for loss in model.losses]
    penalised = [v for v in model.trainable_weights if v.regularizer is not None]
    # Keras puts those of the weights last.
    added, penalties = losses[: len(losses) - len(penalised)], losses[len(losses) - len(penalised) :]
    names = [v.path.removeprefix(f"{model.name}/") for v in penalised]
    twice = [name for name, value in zip(names, penalties, strict=True) if any(_equal(value, other) for other in added)]
    if len(penalties) > 1 and any(_equal(sum(penalties), other) for other in added):
        twice = names
    found = [finding("twice", tuple(twice))] if twice else []
    data = total - sum(losses)
    if sum(penalties) > abs(data):
        shares = sorted(zip(penalties, names, strict=True), reverse=True)
        message = f"penalties are {sum(penalties):.3g}, larger than the loss on the data, {data:.3g}, at the start"
        found.append(finding("large", tuple(name for _, name in shares), message))
    return outputs_against_losses(model, outputs) + found


def _equal(value: float, other: float) -> bool:
    return value != 0 and abs(value - other) <= 1e-6 * abs(value)


def _float(value: Any) -> float:
    return float(ops.convert_to_numpy(value))
