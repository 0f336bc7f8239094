"""Zeros by count: how many weights may stay is set, and a projection keeps the best."""

import inspect
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_reg._registration import register
from keras_reg._validation import axes, boolean, one_of, real_number, step_size, whole_number
from keras_reg.backend import only, smallest
from keras_reg.ops.dtypes import at_most, like, widen
from keras_reg.ops.groups import group_axes
from keras_reg.ops.projections import (
    POOLINGS,
    Units,
    all_but_n_of_m,
    block_of,
    check_blocks,
    check_pattern,
    magnitudes,
    number_of,
)
from keras_reg.regularizers.arguments import pair
from keras_reg.regularizers.penalty import Penalty

SCOPES = ("weight", "model")


class Constraint(Penalty):
    """What all constraints share: a value of 0, a prox that is a projection, and a share of what stays or goes as the number that moves.

    Class attributes:
        constraint: What tells one from a penalty.
        idle: The share at which it holds anyway.

    Attributes:
        pool: What the weights that are projected together share; `None` for a weight by itself.
        every: At which updates the choice is made.
        regrow: Whether what is 0 may be chosen again.
    """

    constraint = True
    idle = 0.0
    pool: Any = None

    def __init__(self, every: int = 1, regrow: bool = True):
        super().__init__(proximal=True)
        self.every = whole_number(every, "every", at_least=1)
        self.regrow = boolean(regrow, "regrow")

    def value(self, w: Any) -> Any:
        return ops.zeros((), w.dtype)

    def subdiff_distance(self, w: Any, grad: Any) -> Any:
        """What is 0 is held there; of what is not, the loss has to have no gradient."""
        w, grad = pair(w, grad)
        return ops.where(ops.equal(w, 0), ops.zeros_like(grad), ops.absolute(grad))

    def prox(self, w: Any, step: Any) -> Any:
        """The nearest `x` that keeps to the constraint; a step for each weight says how near."""
        step = step_size(step, w)
        w, dtype = widen(w, "w")
        self.check_shape(w.shape)
        return ops.cast(only(w, ops.logical_not(self.dropped([self], [w], [step])[0])), dtype)

    def dropped(self, parts: Sequence["Constraint"], tensors: Sequence[Any], steps: Sequence[Any]) -> list[Any]:
        """Where the projection of weights of one pool together is 0, in shapes that broadcast to theirs.

        Args:
            parts: The constraint on each of them, as configured.
            tensors: The weights, in float32 or wider.
            steps: For each of them a step, or a step for each entry.
        """
        raise NotImplementedError

    def get_config(self) -> dict:
        return {"every": self.every, "regrow": self.regrow}

    def __repr__(self) -> str:
        defaults = {name: one.default for name, one in inspect.signature(type(self).__init__).parameters.items()}
        _, first, *names = defaults
        given = [f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name, defaults[name]) != defaults[name]]
        return f"{type(self).__name__}({', '.join([repr(getattr(self, first)), *given])})"


def share(value: Any, name: str) -> float:
    value = real_number(value, name)
    if not 0 <= value < 1:
        raise ValueError(f"Argument `{name}` must be at least 0 and below 1. Received: {name}={value}")
    return value


@register
class L0Constraint(Constraint):
    """At least the share `sparsity` of a weight is 0: its smallest entries, groups or blocks, or all but `n` of every `m` entries.

    A penalty of value 0 whose prox is the projection on what keeps to that, for `keras_reg.optimizers.Proximal`. In the optimizer's own
    metric (Adam and its kin) it drops what is smallest by `w**2 / step`, the saliency of optimal brain damage with the
    optimizer's estimate of the curvature; with SGD, or `metric="euclidean"`, what is smallest in magnitude. Of `k` entries, groups or
    blocks `⌈sparsity * k⌉` are dropped, but never all; of equals those that come first stay.

    The sparsity moves as the strength of a penalty does, without compiling anew. The ramp of Zhu and Gupta from 50 to 80 % in 1000 steps is

    `StrengthScheduler(keras.optimizers.schedules.PolynomialDecay(0.5, 1000, 0.8, power=3))`

    Args:
        sparsity: At least 0 and below 1. `None`, for `n_of_m` alone: `1 - n / m`.
        axis: The axis (or axes) that index groups, which are dropped as a whole, by norm: see `Grouped`. `None`: single entries.
        block_size: Rows and columns of blocks that are dropped as a whole. A kernel of more than two axes is the matrix of its last axis
            and all others. They have to divide it.
        n_of_m: `(n, m)`, as `(2, 4)`: of every `m` entries along the axis of the inputs, the last but one, `n` stay. Another `sparsity`
            drops `⌈sparsity * m⌉` of every `m`, so that a ramp can lead there.
        scope: `"weight"` (default): the share holds in each weight by itself. `"model"`: it holds of all weights together whose constraints
            differ in nothing but the sparsity, and those with less to lose lose more; one entry, group or block of each stays. What is
            compared is `w**2 / step` in the optimizer's own metric, else the magnitude relative to the root mean square of its weight; of
            groups and blocks the root mean square.
        pooling: What a block counts: `"norm"` (default, the nearest point), `"average"` or `"max"`.
        every: The choice is made at each so-manieth update (those that `optimizer.iterations` counts). In between what is 0 stays 0,
            and what is not 0 moves freely.
        regrow: Whether what is 0 may come back where a choice is made: it counts there by what that one update alone has moved it.
            `False`: what has been dropped stays dropped.

    Raises:
        ValueError: where a model with it is trained by an optimizer that is not `Proximal`, and where a weight does not fit.

    Example:

    >>> import keras, numpy as np
    >>> from keras_reg.optimizers import Proximal
    >>> from keras_reg.regularizers import L0Constraint
    >>> x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
    >>> y = x[:, :1] - x[:, 1:2]  # two of twenty inputs matter
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, kernel_regularizer=L0Constraint(0.9))])
    >>> model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    >>> history = model.fit(x, y, epochs=50, verbose=0)
    >>> int(np.count_nonzero(model.get_weights()[0]))  # of 20
    2

    References: [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878), [Blumensath and Davies, 2009](https://doi.org/10.1016/j.acha.2009.04.002),
    [LeCun, Denker and Solla, 1989](https://papers.nips.cc/paper/250-optimal-brain-damage).
    """

    strength_names = ("sparsity",)

    def __init__(
        self,
        sparsity: float | None = None,
        axis: int | tuple[int, ...] | None = None,
        block_size: tuple[int, int] | None = None,
        n_of_m: tuple[int, int] | None = None,
        scope: str = "weight",
        pooling: str = "norm",
        every: int = 1,
        regrow: bool = True,
    ):
        super().__init__(every, regrow)
        given = [name for name, value in (("axis", axis), ("block_size", block_size), ("n_of_m", n_of_m)) if value is not None]
        if len(given) > 1:
            raise ValueError(f"Give one of `axis`, `block_size` and `n_of_m`. Received: {', '.join(given)}")
        self.axis = None if axis is None else axes(axis, "axis")
        self.block_size = None if block_size is None else block_of(block_size, "block_size")
        self.n_of_m = None if n_of_m is None else block_of(n_of_m, "n_of_m")
        self.scope = one_of(scope, SCOPES, "scope")
        self.pooling = one_of(pooling, POOLINGS, "pooling")
        if self.n_of_m is not None:
            if self.n_of_m[0] > self.n_of_m[1]:
                raise ValueError(f"Argument `n_of_m` must be (n, m) with n at most m. Received: n_of_m={tuple(n_of_m)}")
            if scope == "model":
                raise ValueError("Argument `scope` must be 'weight' with `n_of_m`, which holds everywhere. Received: scope='model'")
            sparsity = 1 - self.n_of_m[0] / self.n_of_m[1] if sparsity is None else sparsity
        elif sparsity is None:
            raise ValueError("Argument `sparsity` must be given but for `n_of_m`, which says it. Received: sparsity=None")
        self.sparsity = share(sparsity, "sparsity")

    @property
    def strength(self) -> float:
        return self.sparsity

    @property
    def pool(self) -> Any:
        return None if self.scope == "weight" else (self.axis, self.block_size, self.pooling, self.every, self.regrow)

    @property
    def units(self) -> Units:
        """What stays or goes as a whole."""
        return Units(self.axis, self.block_size, self.pooling)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if self.axis is not None:
            group_axes(self.axis, len(shape))
        elif self.block_size is not None:
            check_blocks(shape, self.block_size)
        elif self.n_of_m is not None:
            check_pattern(shape, self.n_of_m[1])

    def dropped(self, parts: Sequence[Constraint], tensors: Sequence[Any], steps: Sequence[Any]) -> list[Any]:
        magnitude = [magnitudes(w, step) for w, step in zip(tensors, steps, strict=True)]
        if self.n_of_m is not None:
            m = self.n_of_m[1]
            return [all_but_n_of_m(one, m - number_of(self.sparsity, m), m) for one in magnitude]
        units = self.units
        sizes = [units.sizes(one) for one in magnitude]
        numbers = [size.shape[0] for size in sizes]
        number = number_of(self.sparsity, sum(numbers))
        if len(sizes) > 1:
            sizes = [self._comparable(*one) for one in zip(sizes, tensors, steps, strict=True)]
            number = min(number, sum(numbers) - len(sizes)) if isinstance(number, int) else at_most(number, sum(numbers) - len(sizes))
        if not sum(numbers):
            return [ops.zeros(w.shape, "bool") for w in tensors]
        drop = smallest(ops.concatenate(sizes) if len(sizes) > 1 else sizes[0], number)
        starts = [sum(numbers[:i]) for i in range(len(numbers))]
        cut = [drop[start : start + length] for start, length in zip(starts, numbers, strict=True)]
        return [units.spread(own, w.shape) for w, own in zip(tensors, cut, strict=True)]

    def _comparable(self, size: Any, w: Any, step: Any) -> Any:
        """Between weights; the first of the largest stays."""
        if not len(getattr(step, "shape", ())):
            size = size / (ops.sqrt(ops.mean(ops.square(w))) + 1e-30)
        first = ops.equal(ops.arange(size.shape[0], dtype="int32"), ops.cast(ops.argmax(size), "int32"))
        return ops.where(first, like(size, float("inf")), size)

    def get_config(self) -> dict:
        return {
            "sparsity": self.sparsity,
            "axis": list(self.axis) if isinstance(self.axis, tuple) else self.axis,
            "block_size": self.block_size and list(self.block_size),
            "n_of_m": self.n_of_m and list(self.n_of_m),
            "scope": self.scope,
            "pooling": self.pooling,
            **super().get_config(),
        }
