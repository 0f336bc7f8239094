"""How many operations a training step takes with a penalty, and whether a second step compiles anew.

On a GPU a step is as slow as it has operations, and a value that the host reads back stalls it; PyTorch, which runs one after the
other, shows both on any processor.
"""

import keras
import numpy as np
import pytest
from keras import layers

from keras_reg.models import attach
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso, L0Constraint, StructuralGroupLasso, StructuralL0Constraint
from keras_reg.regularizers.part import Part

BACKEND = keras.backend.backend()
KERNELS, SIDE = 4, 512
INNER = {"SGD": lambda: keras.optimizers.SGD(1e-3), "Adam": lambda: keras.optimizers.Adam(1e-3)}
PENALTIES = {"L1": lambda: L1(1e-4, proximal=True), "GroupLasso": lambda: GroupLasso(1e-4, proximal=True)}


def network(optimizer, penalty=None, side=SIDE):
    dense = [layers.Dense(side, use_bias=False, kernel_regularizer=penalty and penalty()) for _ in range(KERNELS)]
    model = keras.Sequential([keras.Input((side,)), *dense])
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(size=(4, side)).astype("float32")
    return lambda: model.train_on_batch(x, x)


if BACKEND == "torch":
    from torch.utils._python_dispatch import TorchDispatchMode

    VIEWS = (
        "view",
        "expand",
        "select",
        "slice",
        "t",
        "transpose",
        "unsqueeze",
        "squeeze",
        "detach",
        "alias",
        "as_strided",
        "permute",
        "split",
    )
    LIMITS = {("SGD", "L1"): 12, ("SGD", "GroupLasso"): 18, ("Adam", "L1"): 16, ("Adam", "GroupLasso"): 36}

    class Recorded(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            self.names.append(function.name().split("::")[1].split(".")[0])
            return function(*arguments, **(named or {}))

    def operations(step):
        step()
        with Recorded() as recorded:
            step()
        return [name for name in recorded.names if name.strip("_") not in VIEWS]

    @pytest.mark.parametrize(("inner", "penalty"), LIMITS)
    def test_operations_of_a_step(inner, penalty):
        bare = operations(network(INNER[inner]()))
        ours = operations(network(Proximal(INNER[inner]()), PENALTIES[penalty]))
        assert (len(ours) - len(bare)) / KERNELS <= LIMITS[inner, penalty]
        read = "_local_scalar_dense"
        assert ours.count(read) <= bare.count(read)

    READS_NOTHING = {
        "count": lambda: L0Constraint(0.5, scope="model"),
        "groups by count": lambda: L0Constraint(0.5, axis=-1, every=3, regrow=False),
        "pattern": lambda: L0Constraint(n_of_m=(1, 2)),
        "structures": lambda: StructuralGroupLasso(1e-4),
        "budget": lambda: StructuralL0Constraint(0.5),
    }

    @pytest.mark.parametrize("inner", INNER)
    @pytest.mark.parametrize("name", READS_NOTHING)
    def test_the_host_reads_nothing_back(name, inner):
        """Also where groups are tied by sums and flattened, so that not all entries of a weight have one."""

        def reads(optimizer, penalty):
            image = keras.Input((8, 8, 4))
            x = layers.Conv2D(8, 3, padding="same")(image)
            x = layers.add([x, layers.Conv2D(8, 3, padding="same")(layers.Conv2D(6, 3, padding="same")(x))])
            x = layers.concatenate([x, layers.Conv2D(4, 3, padding="same")(image)])
            model = keras.Model(image, layers.Dense(2)(layers.Flatten()(layers.DepthwiseConv2D(3)(x))))
            if penalty is not None:
                attach(model, penalty, include=None if isinstance(penalty, Part) else layers.Conv2D)
            model.compile(optimizer, "mse")
            images = np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype("float32")
            return operations(lambda: model.train_on_batch(images, np.zeros((4, 2)))).count("_local_scalar_dense")

        assert reads(Proximal(INNER[inner]()), READS_NOTHING[name]()) <= reads(INNER[inner](), None)
