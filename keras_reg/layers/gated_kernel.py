"""Gates on the weights of a layer, rather than on what goes through it."""

from typing import Any

import keras
from keras import layers

from keras_reg._registration import register
from keras_reg._validation import received
from keras_reg.layers.gate import Gate

KINDS = (
    *(layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(getattr(layers, f"Conv{n}DTranspose") for n in (1, 2, 3) if hasattr(layers, f"Conv{n}DTranspose")),
)
"""Layers with a kernel."""


@register
class GatedKernel(layers.Wrapper):
    """A layer whose kernel is multiplied by gates: single weights close, or groups of them along the axis of the gate.

    `GatedKernel(Dense(300), HardConcreteGate(axis=None, per_sample=False))` has a gate for each weight, `axis=-2` one for each input,
    `axis=-1` one for each unit (whose bias stays). The noise is the same for all examples of a batch.

    Args:
        layer: A `Dense`, `EinsumDense`, or a convolution, without an activity regularizer.
        gate: A gate with `per_sample=False`, whose `axis` is of the kernel.
        **kwargs: `name`, `dtype`, `trainable`, as of any layer.

    Example:

    >>> import keras
    >>> from keras_reg.layers import GatedKernel, HardConcreteGate
    >>> from keras_reg.regularizers import HardConcreteL0
    >>> gate = HardConcreteGate(axis=None, per_sample=False, gate_regularizer=HardConcreteL0(0.5 / 60000))
    >>> model = keras.Sequential([keras.Input((784,)), GatedKernel(keras.layers.Dense(10), gate)])
    >>> tuple(gate.gate.shape)
    (784, 10)
    """

    def __init__(self, layer: Any, gate: Any, **kwargs):
        if not isinstance(layer, KINDS) or layer.activity_regularizer is not None:
            raise TypeError(
                f"Argument `layer` must be a Dense, EinsumDense or convolution, with no activity regularizer. {received(layer, 'layer')}"
            )
        if not isinstance(gate, Gate) or gate.per_sample:
            raise TypeError(f"Argument `gate` must be a gate of keras_reg.layers with `per_sample=False`. {received(gate, 'gate')}")
        super().__init__(layer, **kwargs)
        self.gate = gate

    def build(self, input_shape=None):
        super().build(input_shape)
        if not self.gate.built:
            self.gate.build(tuple(self.kernel.shape))
            self.gate.built = True

    @property
    def kernel(self) -> Any:
        """The kernel of the layer, without the gates."""
        if getattr(self.layer, "lora_enabled", False) or self.layer.quantization_mode is not None:
            raise ValueError(f"{self.layer.name!r} cannot have a gated kernel while it is quantized or has LoRA enabled.")
        return next(v for v in self.layer.weights if v.name == "kernel")

    def call(self, inputs, training=None):
        kernel = self.kernel
        gated = self.gate(kernel.value, training=training)
        sets = self.layer.trainable_variables, self.layer.non_trainable_variables
        outputs, _ = self.layer.stateless_call(*([gated if v is kernel else v.value for v in own] for own in sets), inputs)
        return outputs

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "gate": keras.saving.serialize_keras_object(self.gate)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {**config, "gate": keras.saving.deserialize_keras_object(config["gate"], custom_objects=custom_objects)}
        return super().from_config(config, custom_objects=custom_objects)
