"""What attention that has lost heads does otherwise than its class, where that makes something from the number of its heads."""

import functools
from typing import Any

from keras import ops


class Slopes:
    """Linear biases (ALiBi) with the slopes of the heads that are left."""

    slopes: list[float]

    def _get_slopes(self, num_heads: int) -> list[float]:
        return list(self.slopes)


class OwnHeads:
    """Of the biases that are given to it for all heads, those of the heads that are left; the next layer gets all of them as well."""

    own_heads: list[int]

    def call(self, *args: Any, **kwargs: Any) -> Any:
        names = [name for name in ("position_bias", "alibi") if kwargs.get(name) is not None]
        own = {name: ops.take(kwargs[name], list(self.own_heads), axis=1) for name in names}
        outputs = super().call(*args, **{**kwargs, **own})
        if "position_bias" in own:
            output, _, cache = outputs
            return output, kwargs["position_bias"], cache
        return outputs


_KINDS = {"slopes": Slopes, "own_heads": OwnHeads}


def with_attributes(layer: Any, values: dict[str, Any]) -> None:
    """Sets attributes of a layer, and has it do what they are for."""
    for name, value in values.items():
        setattr(layer, name, value)
        if name in _KINDS and not isinstance(layer, _KINDS[name]):
            # Past the tracking of attributes by Keras and PyTorch.
            object.__setattr__(layer, "__class__", _subclass(_KINDS[name], type(layer)))


@functools.cache
def _subclass(own: type, kind: type) -> type:
    # The name is what summaries show: that of the class.
    return type(kind.__name__, (own, kind), {"__module__": __name__, "__qualname__": kind.__qualname__})
