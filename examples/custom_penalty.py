"""A penalty of one's own, checked and used: the Huber penalty, which is L2 near zero and L1 beyond `width`.

The class writes its value, its proximal map and its config. `check_penalty` tries the contract on it, and names the law that a version
with a wrong proximal map breaks. Then a linear model is trained by `Proximal` under the right one, saved, and loaded.
Exit status: 0 if the right one passes and the wrong one does not, 1 otherwise.

    python examples/custom_penalty.py
    python examples/custom_penalty.py --strength 0.5
"""

import argparse
import os
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py

import keras
import numpy as np
from keras import ops

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import Penalty
from keras_reg.testing import check_penalty


@keras.saving.register_keras_serializable("example")
class Huber(Penalty):
    convex = radial = True

    def __init__(self, strength, width=1.0, proximal=False):
        super().__init__(proximal)
        self.strength = float(strength)
        self.width = float(width)

    def value(self, w):
        size = ops.absolute(w)
        inside = size**2 / (2 * self.width)
        return self.strength * ops.sum(ops.where(size < self.width, inside, size - self.width / 2))

    def prox(self, w, step):
        w = ops.convert_to_tensor(w)
        pull = step * self.strength
        inside = w / (1 + pull / self.width)
        return ops.where(ops.absolute(inside) < self.width, inside, w - pull * ops.sign(w))

    def get_config(self):
        return {"strength": self.strength, "width": self.width, "proximal": self.proximal}


@keras.saving.register_keras_serializable("example")
class Mistaken(Huber):
    def prox(self, w, step):
        return ops.convert_to_tensor(w) / (1 + step * self.strength / self.width)  # as if all weights were near zero


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", type=float, default=0.1, help="of the penalty, above 0 (default 0.1)")
    args = parser.parse_args()
    if not 0 < args.strength < float("inf"):
        parser.error(f"argument --strength must be above 0. Received: {args.strength}")
    check_penalty(Huber(args.strength), shape=(4, 3))
    print("Huber keeps the contract.")
    try:
        check_penalty(Mistaken(args.strength), shape=(4, 3))
    except AssertionError as error:
        print(error)
    else:
        print("The mistake has not been found.")
        return 1

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(200, 5)).astype("float32")
    y = x @ np.array([[3.0], [-2.0], [0.2], [0.1], [0.0]], "float32")
    layer = keras.layers.Dense(1, use_bias=False, kernel_regularizer=Huber(args.strength, proximal=True))
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    model.fit(x, y, batch_size=50, epochs=20, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        again = keras.models.load_model(f"{folder}/model.keras")
    print("true weights    3.0 -2.0 0.2 0.1 0.0")
    print("under Huber    ", *(f"{w:.2f}" for w in ops.convert_to_numpy(layer.kernel)[:, 0]))
    print("after loading  ", again.layers[0].kernel_regularizer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
