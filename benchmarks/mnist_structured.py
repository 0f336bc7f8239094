"""Whole pixels, neurons and filters out of LeNet-300-100 and LeNet-5 on MNIST: test error against multiplications.

    KERAS_BACKEND=jax python benchmarks/mnist_structured.py --data mnist.npz --out s.csv --rows "lenet-300-100/Gaussian gates" --seeds 0
    KERAS_BACKEND=jax python benchmarks/mnist_structured.py --data mnist.npz --out s.csv --table table.md --figure figure.png

The second runs all rows, or what `--out` lacks of them, and writes table and figure. A row is a list of steps, in `RECIPES`, each of which
starts from what the one before has left:

- `train`: with noise on what each layer reads.
- `gates`: `insert_gates` on inputs and units, without other noise, then `compact`.
- `budget`: `StructuralL0Constraint` along a cubic ramp over two thirds of the training, then `compact`: so many multiplications, or
  parameters, are left. Pixels are not among its units.
- `widths`: so many pixels and units of each layer, by `L0Constraint` on the rows of kernels along the same ramp, then `compact`; of LeNet-5
  so many filters and units, by their columns.
- `penalty`: a penalty on the rows of kernels, pixels and units, under `Proximal(SGD)`, each layer's strength weighed by the multiplications
  that one of its rows takes, along a ramp over half of the training; then `compact`.
- `ramp_down`: `L0Constraint(scope="model")` along a cubic ramp over two thirds of the training, one pool of all kernels.
- `refit`: with the zeros kept, after `compact`.

All are trained on all but the last 10,000 images of the training set; `validation` is the error on these, by which steps and strengths were
chosen, `error` that on the test set. What is measured is the compacted model as it comes back from its file. `macs` counts each weight that
is left once for each place where it is used, without biases; `non_zeros` counts weights without biases. A run is a line of `--out`; what is
there is not run again, and with `--cache` neither are steps that runs share.
"""

import math

from mnist import WEIGHTS, Study, kernels, main, with_noise

from keras_reg.callbacks import StrengthScheduler
from keras_reg.layers import GaussianGate, HardConcreteGate
from keras_reg.models import attach, compaction_plan, detach, insert_gates
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import MCP, GaussianGatePenalty, Grouped, GroupLasso, HardConcreteL0, L0Constraint, Lq, StructuralL0Constraint

EVERY = 20
"""Updates between two choices of a constraint, and between two strengths."""

GATES = {
    "gaussian": lambda s, per_sample: GaussianGate(initial_noise=0.1, per_sample=per_sample, gate_regularizer=GaussianGatePenalty(s)),
    "hard-concrete": lambda s, per_sample: HardConcreteGate(initial_open=0.8, per_sample=per_sample, gate_regularizer=HardConcreteL0(s)),
}

PENALTIES = {
    "group lasso": lambda s: GroupLasso(s, axis=-2, proximal=True),
    "group L1/2": lambda s: Grouped(Lq(s, q=0.5), axis=-2, proximal=True),
    "group MCP": lambda s: Grouped(MCP(s, gamma=3.0), axis=-2, proximal=True),
}

PUBLISHED = {
    "lenet-300-100": (
        ("Sparse VD", "512-114-72", 67_296, 67_296, 1.8, "remembered"),
        ("L0 hard concrete", "219-214-100", 69_266, 69_266, 1.4, "remembered"),
        ("SBP", "245-160-55", 48_550, 48_550, 1.6, "read"),
        ("L0 hard concrete, separate strengths", "266-88-33", 26_642, 26_642, 1.6, "read"),
        ("DeepHoyer", "353-45-11", 16_490, 16_490, 1.8, "remembered"),
        ("VIBNet", "97-71-33", 9_560, 9_560, 1.6, "read"),
    ),
    "lenet-5": (
        ("L0 hard concrete", "20-25-45-462", 1_114_000, 38_300, 0.9, "read"),
        ("L0 hard concrete, separate strengths", "9-18-65-25", 390_000, 6_030, 1.0, "read"),
        ("structured sparsity learning", "3-12-192-500", 202_000, 102_000, 1.0, "remembered"),
        ("Bayesian compression, GHS", "5-10-76-16", 154_000, 2_760, 1.0, "read"),
        ("FLOPs as objective", "2-7-112-478", 110_000, 58_500, 1.1, "read"),
    ),
}
"""Multiplications and weights of LeNet-5 by the percentages that were published."""


class Structured(Study):
    def gates(self, kind, strength, epochs, rate, cost=None, per_sample=False):
        gate = GATES[kind](strength / len(self.data[0]), per_sample)
        gated = insert_gates(self.model, gate, exclude=None if self.flat else self.model.layers[0], cost=cost)
        self.fit(gated, rate, epochs)
        self.cut(gated)

    def budget(self, left, of, epochs, rate, noise, added=0.0):
        share = left / getattr(compaction_plan(self.model).total, of)[0]
        noisy = with_noise(self.model, noise, added)
        attach(noisy, StructuralL0Constraint(1.0, of=of, every=EVERY))
        self.fit(noisy, rate, epochs, wrap=Proximal, callbacks=[StrengthScheduler(self.ramp(epochs, 1.0, share), freq=EVERY)])
        detach(noisy)
        self.cut(self.model)

    def widths(self, left, epochs, rate, noise, added=0.0):
        axis, own = (-2, kernels(self.model)) if self.flat else (-1, kernels(self.model)[:-1])
        noisy = with_noise(self.model, noise, added)
        attach(noisy, L0Constraint(0.0, axis=axis, every=EVERY), include=own)
        ramps = [
            StrengthScheduler(self.ramp(epochs, 0.0, 1 - width / kernel.shape[axis]), freq=EVERY, path=kernel.path)
            for kernel, width in zip(own, left, strict=True)
            if width < kernel.shape[axis]
        ]
        self.fit(noisy, rate, epochs, wrap=Proximal, callbacks=ramps)
        detach(noisy)
        self.cut(self.model)

    def penalty(self, kind, strength, epochs, rate, noise, added=0.0):
        noisy = with_noise(self.model, noise, added)
        own = kernels(self.model)
        before = [0, *(kernel.shape[0] for kernel in own)]
        costs = [kernel.shape[1] + rows for kernel, rows in zip(own, before, strict=False)]
        for kernel, cost in zip(own, costs, strict=True):
            attach(noisy, PENALTIES[kind](1e-9 * cost / costs[0]), include=kernel)
        half = self.updates(epochs) // 2
        ramps = [
            StrengthScheduler(lambda step, s=strength * cost / costs[0]: s * min(1, step / half), freq=EVERY, path=kernel.path)
            for kernel, cost in zip(own, costs, strict=True)
        ]
        self.fit(noisy, rate, epochs, wrap=Proximal, callbacks=ramps, inner="sgd")
        detach(noisy)
        self.cut(self.model)

    def ramp_down(self, times, epochs, rate, noise, added=0.0):
        noisy = with_noise(self.model, noise, added)
        attach(noisy, L0Constraint(0.0, scope="model", every=EVERY))
        ramp = StrengthScheduler(self.ramp(epochs, 0.0, self.zeros(times)), freq=EVERY)
        self.fit(noisy, rate, epochs, wrap=Proximal, callbacks=[ramp])
        detach(noisy)

    def zeros(self, times):
        """The share of today's weights that has to be zero for so many times fewer than the whole network has."""
        return 1 - WEIGHTS[self.network] / times / sum(math.prod(kernel.shape) for kernel in kernels(self.model))

    def refit(self, epochs, rate, noise, added=0.0):
        self.cut(self.model)
        self.fit(with_noise(self.model, noise, added), rate, epochs, wrap=lambda inner: Proximal(inner, keep_zeros=True))


NOISE = {"noise": 0.3, "added": 0.2}
GATED = [
    ["gates", {"kind": "gaussian", "strength": 22.0, "epochs": 50, "rate": 2e-3}],
    ["train", {"epochs": 50, "rate": 3e-3, **NOISE}],
]
FIRST_BUDGET = ["budget", {"left": 700_000, "of": "macs", "epochs": 6, "rate": 2e-3, "noise": 0.1}]
"""Most of the work of LeNet-5 is on the way to here, where what is left costs a third."""
RECIPES = {
    "lenet-300-100/Gaussian gates": GATED,
    "lenet-300-100/Gaussian gates, then widths (19,844)": [
        *GATED,
        ["widths", {"left": [158, 94, 48], "epochs": 30, "rate": 2e-3, **NOISE}],
        ["train", {"epochs": 40, "rate": 3e-3, **NOISE}],
    ],
    "lenet-300-100/Gaussian gates, then widths (9,560)": [
        *GATED,
        ["widths", {"left": [97, 71, 33], "epochs": 30, "rate": 2e-3, **NOISE}],
        ["train", {"epochs": 40, "rate": 3e-3, **NOISE}],
    ],
    "lenet-5/a budget, then widths": [
        FIRST_BUDGET,
        ["widths", {"left": [5, 8, 11], "epochs": 12, "rate": 2e-3, "noise": 0.1}],
        ["train", {"epochs": 25, "rate": 3e-3, "noise": 0.1}],
    ],
}

if __name__ == "__main__":
    main(__doc__, Structured, RECIPES, PUBLISHED, ("macs", "multiplications of one image"))
