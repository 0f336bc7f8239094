"""Strengths under which a wanted share of the weights is zero, or of the gates closed."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_reg._validation import greater_than, one_of, real_number
from keras_reg.binding import move
from keras_reg.callbacks.gate_target import GateTarget
from keras_reg.callbacks.strength import StrengthCallback
from keras_reg.contract import is_constraint
from keras_reg.models.statistics import zeros
from keras_reg.running import proximal_optimizers
from keras_reg.weights import read

LARGEST_RISE = 1.0  # of the logarithm of the strengths in one correction, at the largest learning rate so far
NEARLY = 0.005  # how near the share comes to the one that is asked for
FARTHEST = math.log(1e6)  # from the configured strength, in either direction


class TargetSparsity(StrengthCallback):
    """Finds the strengths under which a wanted share of the weights is exactly zero at a given epoch, and holds it.

    The sparsity asked for rises from 0 to `target` along `target * (1 - (1 - t)**3)`, `t` from 0 to 1 at `epoch`. At each correction the
    strengths are kept below those at which the proxes alone, without gradients, would take more than that to zero until the next one.
    Where zeros are missing they rise, by a factor of 2.7 at most (as much less as the learning rate is below the largest so far), and what
    the gradients have held back beyond half a point, or one group, is set to zero in the order in which the proxes would take it. So the
    share is followed from below, groups that do not come back are not lost to a strength that was too high for a moment, and a weight
    is not taken to zero as a whole. The strengths keep their ratios, and are within a factor of a million of those configured.

    **Gates** (`of="gates"`, for those with `HardConcreteL0` or `GaussianGatePenalty`; no `Proximal` is needed): where fewer gates are
    closed than the ramp asks for, the least likely open ones are closed, but for the last of a layer, and training decides whether they
    stay so. Where too many open again the strengths rise, by a factor of 150 at most over the ramp. Where more close than is asked for,
    or all are about to close at once, the strengths fall, by 2 % a step. A strength that is too low does little harm then; one a hundred
    times too high may close everything before it has fallen.

    The strengths are all that it remembers, saved with the optimizer: a run resumed from the end of an epoch goes on as if it had not
    stopped (where the number of steps is not known before the first epoch, put the callback before those that save; where the learning
    rate is scheduled, what is the largest so far starts anew). Those of gates are in `.keras` files, not in files of weights: after
    `BackupAndRestore` they start from what was configured.

    Args:
        target: Share of the penalised weights that shall be zero, between 0 and 1, both excluded.
        epoch: Number of epochs from the start of training (`initial_epoch` included) after which it shall be reached.
        of: `"weights"` (default): the share of exact zeros among the penalised weights; `"groups"`: the share of zero groups, for
            group penalties, where those that reach over several weights count once; `"gates"`: the share of closed gates.
        every: Steps between two corrections. Defaults to 10. Each applies the proxes about four times, to copies.
        verbose: 1 prints a line each epoch. Defaults to 0.

    But for gates it needs `keras_reg.optimizers.Proximal`: without a prox there are no exact zeros to count. `logs` gains `strength` (or
    `strength/<path>`), `sparsity` and, for groups, `group_sparsity`, or for gates `closed_gates`, at the end of every epoch.

    Example:

    >>> from keras_reg.callbacks import TargetSparsity
    >>> callback = TargetSparsity(0.9, epoch=10)

    Reference for the ramp: [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878).
    """

    def __init__(self, target: float, epoch: int, of: str = "weights", every: int = 10, verbose: int = 0):
        super().__init__()
        self.target = real_number(target, "target")
        if not 0 < self.target < 1:
            raise ValueError(f"Argument `target` must be between 0 and 1, both excluded. Received: target={target}")
        self.epoch = greater_than(epoch, 0, "epoch")
        self.of = one_of(of, ("weights", "groups", "gates"), "of")
        self.every = int(greater_than(every, 0, "every"))
        self.verbose = verbose

    def on_train_begin(self, logs=None):
        self._steps_in_epoch = self.params.get("steps")
        self._largest_rate, self._nearly = 0.0, NEARLY
        super().on_train_begin(logs)

    def _choose(self) -> dict[str, Any]:
        return self._choose_gates() if self.of == "gates" else self._choose_proximal()

    def _choose_gates(self) -> dict[str, Any]:
        self._gates = GateTarget(self.model, self._penalised.values())
        if not self._gates.weights:
            raise ValueError(
                "Argument `of` must be 'weights' or 'groups' for a model without gates that have `HardConcreteL0` or `GaussianGatePenalty` "
                "as `gate_regularizer`. Received: of='gates'"
            )
        ids = {id(weight) for weight in self._gates.weights}
        chosen = {path: v for path, v in self._penalised.items() if id(v) in ids}
        _refuse_zero(chosen)
        return chosen

    def _choose_proximal(self) -> dict[str, Any]:
        optimizers = list(proximal_optimizers(self.model.optimizer))
        counted = [path for path, v in self._penalised.items() if is_constraint(v.regularizer)]
        if counted:
            raise ValueError(
                "TargetSparsity looks for strengths, and a constraint has none: its share of zeros is set, and moved with "
                f"StrengthScheduler. Received: a model with constraints on {', '.join(counted)}"
            )
        chosen = {path: v for path, v in self._penalised.items() if any(optimizer.applies_prox_to(v) for optimizer in optimizers)}
        if not chosen:
            raise ValueError(
                "TargetSparsity needs a model compiled with `keras_reg.optimizers.Proximal`, and a penalty with `proximal=True`: only a "
                f"prox reaches exact zeros. Received: optimizer {type(self.model.optimizer).__name__}"
            )
        _refuse_zero(chosen)
        mixed = [path for path, v in chosen.items() if v.regularizer.by_gradient is not None and v.regularizer.moves is None]
        if mixed:
            raise ValueError(
                "TargetSparsity would move all parts of a sum by one factor, also those in the loss, which make no zeros: name the "
                "one that moves, as in `Sum([GroupLasso(…, proximal=True), L2(…)], moves='GroupLasso')`. "
                f"Received: sums at {', '.join(mixed)}"
            )
        if self.of == "groups" and not any(hasattr(v.regularizer, "axis") for v in self._penalised.values()):
            raise ValueError("Argument `of` must be 'weights' for a model without group penalties. Received: of='groups'")
        return chosen

    def _ends_apart(self) -> bool:
        return len({v.regularizer.strength for v in self._moved.values()}) > 1

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._in_epoch, self._at_the_end = epoch, 0, None

    def on_train_batch_end(self, batch, logs=None):
        before, self._in_epoch = self._in_epoch, batch + 1
        # The last of an epoch is corrected here and not at its end, where callbacks may have saved already.
        ends = self._in_epoch == self._steps_in_epoch
        if before // self.every == self._in_epoch // self.every and not ends:
            return
        self._sync()
        reached = self._correct()
        if ends:
            self._at_the_end = reached

    def _asked_for(self, steps_ago: int = 0) -> float:
        # How long the first epoch of a generator will be is not known: the ramp moves at its end.
        within = (self._in_epoch - steps_ago) / self._steps_in_epoch if self._steps_in_epoch else 0.0
        progress = min(max(self._epoch + within, 0.0) / self.epoch, 1.0)
        return self.target * (1 - (1 - progress) ** 3)

    def _reached(self) -> float:
        return self._share(zeros(self._penalised.values(), self.of == "groups"))

    def _correct(self) -> float:
        return self._correct_gates() if self.of == "gates" else self._correct_proximal()

    def _correct_gates(self) -> float:
        asked_for, before = self._asked_for(), self._asked_for(self.every)
        part = self.every / (self.epoch * self._steps_in_epoch) if self._steps_in_epoch else 0.0
        change = self._gates.change(asked_for, before, self.every, part)
        move([(variable, self._moderate(variable, change)) for variable in self._moved.values()])
        self._gates.close(asked_for)
        return self._gates.closed()

    def _correct_proximal(self) -> float:
        asked_for, reached = self._asked_for(), self._reached()
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._largest_rate = max(self._largest_rate, rate)
        if not self._largest_rate:
            return reached
        self._rate = rate or self._largest_rate
        change, values = self._largest_change(asked_for)
        missing = reached < asked_for - self._nearly
        change = min(change, LARGEST_RISE * rate / self._largest_rate if missing else 0.0)
        if rate:
            move([(variable, self._moderate(variable, change)) for variable in self._moved.values()])
        if not missing:
            return reached
        for variable in self._moved.values():
            now, then = read(variable), values.get(id(variable))
            if then is not None and np.any((then == 0) & (now != 0)):
                variable.assign(np.where(then == 0, np.zeros_like(now), now))
        return self._reached()

    def _largest_change(self, asked_for: float) -> tuple[float, dict[int, np.ndarray]]:
        """Of the logarithm of the strengths, so that the proxes alone take no more than that to zero; and the weights that they leave."""
        low, high, step = 0.0, 0.0, 1.0
        best = tried = self._ahead(low)
        while tried[0] <= asked_for and high < 4 * FARTHEST:
            low, best = high, tried
            high, step = high + step, 2 * step
            tried = self._ahead(high)
        over = tried[0]
        if best[0] > asked_for:
            low = -FARTHEST
            best = self._ahead(low)
            if best[0] > asked_for:
                return 0.0, {}  # what nothing holds, as no gradient has come to it, goes at any strength
        for _ in range(12):
            if asked_for - best[0] < self._nearly:
                break
            # Where a straight line between the two comes close; half way where it would not move one of them.
            part = (asked_for - self._nearly / 2 - best[0]) / (over - best[0]) if math.isfinite(over) else 0.5
            middle = low + min(max(part, 0.2), 0.8) * (high - low)
            tried = self._ahead(middle)
            if tried[0] <= asked_for:
                low, best = middle, tried
            else:
                high, over = middle, tried[0]
        return low, best[1]

    def _ahead(self, change: float) -> tuple[float, dict[int, np.ndarray]]:
        """The share of zeros, and the weights, as the proxes alone would leave them until the next correction, at changed strengths."""
        values: dict[int, np.ndarray] = {}
        for optimizer in proximal_optimizers(self.model.optimizer):
            values |= optimizer.ahead(self.every, self._rate, math.exp(change))
        if any(not values[id(v)].any() and read(v).any() for v in self._moved.values()):
            return math.inf, values  # a layer without weights
        return self._share(zeros(self._penalised.values(), self.of == "groups", values)), values

    def _share(self, found: Any) -> float:
        if self.of == "weights":
            return found.sparsity
        self._nearly = max(NEARLY, 1 / found.groups)  # no nearer than one group
        return found.group_sparsity

    def _moderate(self, variable: Any, change: float) -> float:
        own = variable.regularizer
        configured = own.configured.strength
        return min(max(own.strength * math.exp(change), configured * math.exp(-FARTHEST)), configured * math.exp(FARTHEST))

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        self._steps_in_epoch = self._steps_in_epoch or self._in_epoch
        reached = self._correct() if self._at_the_end is None else self._at_the_end
        strengths = {path: v.regularizer.strength for path, v in self._moved.items()}
        self._log(logs, strengths)
        if logs is not None and self.of != "weights":
            logs["group_sparsity" if self.of == "groups" else "closed_gates"] = reached
        if self.verbose:
            shown = ", ".join(f"{strength:.3g}" for strength in sorted(set(strengths.values())))
            print(f"TargetSparsity, epoch {epoch + 1}: {reached:.1%} of the {self.of} are zero; strength {shown}")


def _refuse_zero(chosen: dict[str, Any]) -> None:
    zero = [path for path, variable in chosen.items() if variable.regularizer.strength == 0]
    if zero:
        raise ValueError(f"TargetSparsity multiplies strengths, so none may be 0 at the start. Received: strength 0 at {', '.join(zero)}")
