"""An embedding of many rows, whose penalty costs what the rows of a batch cost."""

from typing import Any

import keras

from keras_reg._registration import register
from keras_reg.backend import look_up, rows_apart


@register
class Embedding(keras.layers.Embedding):
    """Keras's `Embedding`, of which a training step on TensorFlow reads and writes the rows of its batch alone.

    Keras's own layer reads the whole table at each step, has it copied for the update, and a penalty goes over all of it. Here the time
    of a step follows the rows that the batch looks up, not those that exist: bare, and with `Proximal(SGD())` or `Proximal(Adagrad())` and
    one of

    - `L1(strength, proximal=True)`: `strength * sum(|w|)`,
    - `GroupLasso(strength, axis=0, proximal=True)`: one group for each row, under SGD or with `metric="euclidean"`.

    A row that no batch touches has its proxes applied as one, by `prox_a(prox_b(w)) = prox_{a+b}(w)`, as soon as it is read: by the layer,
    or by whoever reads the weights. Weights, outputs, zeros and files are those of Keras's layer, up to rounding. The loss of a
    compiled step shows the penalty of when the whole table was last read, which is at least each
    `min(input_dim * output_dim / 16,384, 1000)` updates.

    With other penalties, with momentum, weight decay, averages (EMA), gradient accumulation or `keep_zeros=True`, with other optimizers,
    under a `tf.distribute` strategy and with LoRA it is as Keras's layer: the time follows the rows that exist. On JAX and PyTorch it is
    Keras's layer always.

    Args:
        **kwargs: Those of `keras.layers.Embedding`: `input_dim`, `output_dim`, `embeddings_initializer`, `embeddings_regularizer`, ...

    Input shape:
        Integers from 0 to `input_dim - 1` of any shape.

    Output shape:
        The same and `(output_dim,)`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_reg.layers import Embedding
    >>> from keras_reg.optimizers import Proximal
    >>> from keras_reg.regularizers import GroupLasso
    >>> table = Embedding(100, 4, embeddings_regularizer=GroupLasso(1e-2, axis=0, proximal=True))
    >>> model = keras.Sequential([keras.Input((3,), dtype="int32"), table, keras.layers.Flatten(), keras.layers.Dense(1)])
    >>> model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    >>> x = np.random.default_rng(0).integers(0, 50, (256, 3))  # half of the rows never occur
    >>> history = model.fit(x, np.ones((256, 1)), epochs=10, verbose=0)
    >>> rows = table.get_weights()[0]
    >>> bool((rows[50:] == 0).all())
    True

    Reference: [Duchi and Singer, 2009](https://jmlr.org/papers/v10/duchi09a.html): lazy updates for data of many dimensions.
    """

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        super().build(input_shape)
        if not self.quantization_mode:
            rows_apart(self._embeddings)
        if keras.backend.backend() == "tensorflow":
            self.supports_jit = False  # XLA copies what it updates

    def call(self, inputs: Any) -> Any:
        if self.lora_enabled:
            return super().call(inputs)
        ids = inputs if inputs.dtype in ("int32", "int64") else keras.ops.cast(inputs, "int32")
        return keras.ops.cast(look_up(self._embeddings, ids), self.compute_dtype)

    def quantize(self, mode: Any = None, type_check: bool = True, **kwargs: Any) -> None:
        del type_check  # by which Keras leaves classes alone that derive from its own
        super().quantize(mode, type_check=False, **kwargs)
