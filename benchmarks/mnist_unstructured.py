"""Single weights out of LeNet-300-100 and LeNet-5 on MNIST: test error against non-zero weights.

    KERAS_BACKEND=jax python benchmarks/mnist_unstructured.py --data mnist.npz --out u.csv --rows "lenet-5/ramp to 122x" --seeds 0
    KERAS_BACKEND=jax python benchmarks/mnist_unstructured.py --data mnist.npz --out u.csv --table table.md --figure figure.png

The second runs all rows, or what `--out` lacks of them, and writes table and figure. A row is a list of steps, in `RECIPES`, each of which
starts from what the one before has left: those of `mnist_structured.py`, and

- `l1`: `L1` under `TargetSparsity`, to the same number of zeros.

All are trained on all but the last 10,000 images of the training set; `validation` is the error on these, by which steps were chosen,
`error` that on the test set. `non_zeros` counts weights without biases, against 266,200 and 430,500; `times` in a recipe is the one by the
other. A run is a line of `--out`; what is there is not run again, and with `--cache` neither are steps that runs share.
"""

from mnist import main, with_noise
from mnist_structured import EVERY, FIRST_BUDGET, GATED, Structured

from keras_reg.callbacks import TargetSparsity
from keras_reg.models import attach, detach
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1

PUBLISHED = {
    "lenet-300-100": (
        ("dense", "784-300-100", 266_200, 266_200, 1.64, "remembered"),
        ("Han et al., 12x", "", None, 22_200, 1.59, "remembered"),
        ("dynamic network surgery, 56x", "", None, 4_750, 1.99, "remembered"),
        ("Sparse VD, 68x", "", None, 3_910, 1.92, "remembered"),
        ("RigL+, mean", "375-62-51", None, 3_100, 1.69, "read"),
    ),
    "lenet-5": (
        ("dense", "20-50-800-500", 2_293_000, 430_500, 0.80, "remembered"),
        ("Han et al., 12x", "", None, 35_900, 0.77, "remembered"),
        ("dynamic network surgery, 111x", "", None, 3_880, 0.91, "remembered"),
        ("Sparse VD, 280x", "", None, 1_540, 0.75, "remembered"),
    ),
}


class Unstructured(Structured):
    compressed = True

    def l1(self, times, epochs, rate, noise, added=0.0):
        noisy = with_noise(self.model, noise, added)
        attach(noisy, L1(1e-5, proximal=True))
        self.fit(noisy, rate, epochs, wrap=Proximal, callbacks=[TargetSparsity(self.zeros(times), 2 * epochs // 3, every=EVERY)])
        detach(noisy)


RECIPES = {
    "lenet-300-100/ramp to 68x": [
        *GATED,
        ["ramp_down", {"times": 68.1, "epochs": 40, "rate": 2e-3, "noise": 0.2, "added": 0.1}],
        ["refit", {"epochs": 30, "rate": 2e-3, "noise": 0.2, "added": 0.1}],
    ],
    "lenet-300-100/L1 to 68x": [
        *GATED,
        ["l1", {"times": 69, "epochs": 40, "rate": 2e-3, "noise": 0.2, "added": 0.1}],
        ["refit", {"epochs": 30, "rate": 2e-3, "noise": 0.2, "added": 0.1}],
    ],
    "lenet-5/ramp to 122x": [
        FIRST_BUDGET,
        ["ramp_down", {"times": 122.2, "epochs": 12, "rate": 2e-3, "noise": 0.1}],
        ["refit", {"epochs": 10, "rate": 1e-3, "noise": 0.1}],
    ],
}

if __name__ == "__main__":
    main(__doc__, Unstructured, RECIPES, PUBLISHED, ("non_zeros", "weights that are not zero"))
