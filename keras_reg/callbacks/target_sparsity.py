"""Strengths under which a wanted share of the weights is zero."""

import math
from typing import Any

from keras import ops

from keras_reg._validation import greater_than, one_of, real_number
from keras_reg.binding import is_constraint, move
from keras_reg.callbacks.strength import StrengthCallback
from keras_reg.models.statistics import zeros
from keras_reg.running import proximal_optimizers

PROPORTIONAL = 6.0  # a jump of the sparsity by 10 points changes a strength by the factor exp(0.6)
INTEGRAL = 40.0  # 10 points too few during the whole ramp change it by exp(4)
FARTHEST = 1e6  # from the configured strength, in either direction


class TargetSparsity(StrengthCallback):
    """Finds the strengths under which a wanted share of the weights is exactly zero at a given epoch, and holds it.

    The sparsity asked for rises from 0 to `target` along `target * (1 - (1 - t)**3)`, `t` from 0 to 1 at `epoch`. A proportional-integral
    controller moves the logarithm of the strengths towards it; the strengths keep their ratios. They are its state, saved
    with the optimizer: a run resumed from the end of an epoch goes on as if it had not stopped (where the number of steps is not known
    before the first epoch, put the callback before those that save). It moves them as much less as the
    learning rate is below the largest so far, as a strength acts by both, and by a factor of a million at the most.

    Args:
        target: Share of the penalised weights that shall be zero, between 0 and 1, both excluded.
        epoch: Number of epochs from the start of training (`initial_epoch` included) after which it shall be reached.
        of: `"weights"` (default): the share of exact zeros among the penalised weights; `"groups"`: the share of zero groups, for
            group penalties. Groups that reach over several weights count once.
        every: Steps between two corrections. Defaults to 10. Fewer follow more closely; each counts the zeros once.
        verbose: 1 prints a line each epoch. Defaults to 0.

    Needs `keras_reg.optimizers.Proximal`: without a prox there are no exact zeros to count. `logs` gains `strength` (or `strength/<path>`),
    `sparsity` and, for groups, `group_sparsity`, at the end of every epoch.

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
        self.of = one_of(of, ("weights", "groups"), "of")
        self.every = int(greater_than(every, 0, "every"))
        self.verbose = verbose

    def on_train_begin(self, logs=None):
        self._steps_in_epoch = self.params.get("steps")
        self._last = None
        self._largest_rate = 0.0
        super().on_train_begin(logs)

    def _choose(self) -> dict[str, Any]:
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
        zero = [path for path, variable in chosen.items() if variable.regularizer.strength == 0]
        if zero:
            raise ValueError(
                f"TargetSparsity multiplies strengths, so none may be 0 at the start. Received: strength 0 at {', '.join(zero)}"
            )
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
        self._remember_where_it_starts()

    def _remember_where_it_starts(self) -> None:
        if self._ready and self._last is None:
            self._last = self._asked_for(), self._reached()

    def on_train_batch_end(self, batch, logs=None):
        before, self._in_epoch = self._in_epoch, batch + 1
        # The last of an epoch is corrected here and not at its end, where callbacks may have saved already.
        ends = self._in_epoch == self._steps_in_epoch
        if before // self.every == self._in_epoch // self.every and not ends:
            return
        self._sync()
        self._remember_where_it_starts()
        reached = self._correct()
        if ends:
            self._at_the_end = reached

    def _asked_for(self) -> float:
        # How long the first epoch of a generator will be is not known: the ramp moves at its end.
        within = self._in_epoch / self._steps_in_epoch if self._steps_in_epoch else 0.0
        progress = min((self._epoch + within) / self.epoch, 1.0)
        return self.target * (1 - (1 - progress) ** 3)

    def _reached(self) -> float:
        if self.of == "groups":
            return zeros(self._penalised.values(), groups_of_penalties=True).group_sparsity
        return zeros(self._penalised.values()).sparsity

    def _correct(self) -> float:
        asked_for, reached = self._asked_for(), self._reached()
        asked_before, reached_before = self._last
        self._last = asked_for, reached
        corrections = self.epoch * max(1.0, (self._steps_in_epoch or self._in_epoch) / self.every)
        change = PROPORTIONAL * ((asked_for - asked_before) - (reached - reached_before)) + INTEGRAL / corrections * (asked_for - reached)
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._largest_rate = max(self._largest_rate, rate)
        change *= rate / self._largest_rate if self._largest_rate else 0.0
        move([(variable, self._moderate(variable, change)) for variable in self._moved.values()])
        return reached

    def _moderate(self, variable: Any, change: float) -> float:
        own = variable.regularizer
        configured = own.configured.strength
        return min(max(own.strength * math.exp(change), configured / FARTHEST), configured * FARTHEST)

    def on_epoch_end(self, epoch, logs=None):
        self._sync()
        self._steps_in_epoch = self._steps_in_epoch or self._in_epoch
        self._remember_where_it_starts()
        reached = self._correct() if self._at_the_end is None else self._at_the_end
        strengths = {path: v.regularizer.strength for path, v in self._moved.items()}
        self._log(logs, strengths)
        if logs is not None and self.of == "groups":
            logs["group_sparsity"] = reached
        if self.verbose:
            shown = ", ".join(f"{strength:.3g}" for strength in sorted(set(strengths.values())))
            print(f"TargetSparsity, epoch {epoch + 1}: {reached:.1%} of the {self.of} are zero; strength {shown}")
