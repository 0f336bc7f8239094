"""How many gates of a model are open, without noise and as expected with it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_reg.layers.gate import Gate
from keras_reg.weights import layers_of


@dataclass(frozen=True)
class GateCounts:
    """The gates of one layer."""

    name: str
    gates: int
    open: int
    """Those that are not 0 when the model predicts."""
    whole: int
    """Those that are exactly 1."""
    expected_open: float
    """The sum of `open_probability()`."""


def count_gates(model: Any) -> tuple[GateCounts, ...]:
    """The gates of all layers that have some, in the order of the model."""
    found = []
    for layer in layers_of(model):
        if isinstance(layer, Gate) and layer.built:
            gates, likely = (ops.convert_to_numpy(ops.stop_gradient(one)) for one in (layer.gates(), layer.open_probability()))
            counts = int(np.count_nonzero(gates)), int(np.count_nonzero(gates == 1)), float(likely.sum(dtype="float64"))
            found.append(GateCounts((layer.path or layer.name).removeprefix(f"{model.name}/"), gates.size, *counts))
    return tuple(found)


def columns(counts: tuple[GateCounts, ...]) -> dict[str, list[str]]:
    return {
        "layer": [one.name for one in counts],
        "gates": [f"{one.gates:,}" for one in counts],
        "open": [f"{one.open:,} {one.open / max(one.gates, 1):4.0%}" for one in counts],
        "exactly 1": [f"{one.whole:,}" for one in counts],
        "expected open": [f"{one.expected_open:,.1f}" for one in counts],
    }
