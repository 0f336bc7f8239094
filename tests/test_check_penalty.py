"""`check_penalty` catches small planted faults, each by the law it breaks."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_reg.ops import hard_threshold, mcp_threshold, soft_threshold
from keras_reg.regularizers import L1, L2, MCP, GroupLasso, HoyerSquare, L0Constraint, Penalty
from keras_reg.testing import check_penalty


class FirmBeyondItsStep(MCP):
    def prox(self, w, step):
        soft = soft_threshold(w, step * self.strength) / (1 - step / self.gamma)
        return ops.where(ops.absolute(w) > self.gamma * self.strength, w, soft)


class NoBranchForLargeSteps(MCP):
    def prox(self, w, step):
        return mcp_threshold(w, min(float(step), 0.99 * self.gamma), self.strength, self.gamma)


class NaNAtTheZeroGroup(GroupLasso):
    def value(self, w):
        return self.strength * self.group_weight(w) * ops.sum(ops.sqrt(ops.sum(ops.square(w), axis=0)))


class DoubledValue(L1):
    def __call__(self, w):
        return 2 * super().__call__(w)


class HalfShrinkage(L2):
    def prox(self, w, step):
        return w / (1 + step * self.l2)


class DoubledStrengthMax(L1):
    def strength_max(self, grad_at_zero):
        return 2 * super().strength_max(grad_at_zero)


class GroupStrengthWithoutSize(GroupLasso):
    def strength_max(self, grad_at_zero):
        return super().strength_max(grad_at_zero) * 1.05


class ForgetsItsGamma(MCP):
    def get_config(self):
        return {"strength": self.strength, "proximal": self.proximal}


class TensorConfig(L1):
    def get_config(self):
        return {"l1": np.float32(self.l1), "proximal": self.proximal}


class PopsTheConfig(L1):
    @classmethod
    def from_config(cls, config):
        return cls(config.pop("l1"), config.pop("proximal"))


class NaNBecomesZero(L1):
    def prox(self, w, step):
        w = ops.convert_to_tensor(w)
        size = ops.absolute(w) - step * self.l1
        return ops.where(size > 0, ops.sign(w) * size, ops.zeros_like(w))


class InfinityBecomesZero(L1):
    def prox(self, w, step):
        x = super().prox(w, step)
        return ops.where(ops.isinf(x), ops.zeros_like(x), x)


class MovesAtStepZero(GroupLasso):
    def prox(self, w, step):
        w = ops.convert_to_tensor(w)
        norm = ops.sqrt(ops.sum(ops.square(w), axis=0))  # infinite at 1e30
        return ops.where(ops.isinf(norm), ops.zeros_like(w), super().prox(w, step))


class WrongDtype(L1):
    def prox(self, w, step):
        return ops.cast(super().prox(w, step), "float32")


class NoZerosInTheProx(L1):
    def prox(self, w, step):
        x = super().prox(w, step)
        return ops.where(ops.equal(x, 0), 1e-7 * w, x)


class SupportOfSmallWeights(L1):
    def support(self, w):
        return ops.absolute(w) > 0.1


class ClaimsConvexity(MCP):
    convex = True


class NoProxButAccepted(HoyerSquare):
    def prox(self, w, step):
        raise NotImplementedError


class HardForLasso(L1):
    def prox(self, w, step):
        return hard_threshold(w, step * self.l1)


class OneStepForAll(GroupLasso):
    def prox(self, w, step):
        return super().prox(w, ops.mean(step) if np.shape(step) else step)


class WrongSubdifferential(L1):
    def derivative(self, size):
        return 1.5 * self.l1 * ops.ones_like(size)

    def strength_max(self, grad_at_zero):
        raise NotImplementedError


class DropsTheLargest(L0Constraint):
    def prox(self, w, step):
        w = ops.convert_to_tensor(w)
        kept = super().prox(1 / w, step)
        return ops.where(ops.equal(kept, 0), ops.zeros_like(w), w)


class ShrinksWhatItKeeps(L0Constraint):
    def prox(self, w, step):
        return 0.99 * super().prox(w, step)


class DropsMoreEachTime(L0Constraint):
    def prox(self, w, step):
        w = ops.convert_to_tensor(w)
        zeros = ops.mean(ops.cast(ops.equal(w, 0), "float32"))
        return L0Constraint(0.0).at_strength(zeros + self.sparsity).prox(w, step) if self.sparsity else w


class IgnoresTheMetric(L0Constraint):
    def prox(self, w, step):
        return super().prox(w, 1.0)


class HidesNaN(L0Constraint):
    def prox(self, w, step):
        x = super().prox(w, step)
        return ops.where(ops.isnan(x), ops.zeros_like(x), x)


@pytest.mark.parametrize(
    ("penalty", "law"),
    [
        (DropsTheLargest(0.5), "the projection of a constraint leaves"),
        (ShrinksWhatItKeeps(0.5), "of strength 0 is 0 and moves nothing"),
        (DropsMoreEachTime(0.4), "the projection of a constraint leaves"),
        (IgnoresTheMetric(0.5), "with a step for each weight"),
        (HidesNaN(0.5), "the prox keeps dtype and shape, zero and what is not finite"),
        (FirmBeyondItsStep(0.5), "the prox minimises its objective'"),
        (NoBranchForLargeSteps(0.5), "the prox minimises its objective'"),
        (NaNAtTheZeroGroup(0.5), "the gradient is no NaN"),
        (DoubledValue(0.5), "the gradient agrees with subdiff_distance"),
        (HalfShrinkage(0.5), "the prox minimises its objective'"),
        (DoubledStrengthMax(0.5), "zero is stationary 1 % above strength_max"),
        (GroupStrengthWithoutSize(0.5), "zero is stationary 1 % above strength_max"),
        (ForgetsItsGamma(0.5, gamma=2.0), "the config is plain Python and rebuilds"),
        (TensorConfig(0.5), "the config is plain Python and rebuilds"),
        (PopsTheConfig(0.5), "the config is plain Python and rebuilds"),
        (NaNBecomesZero(0.5), "the prox keeps dtype and shape, zero and what is not finite"),
        (WrongDtype(0.5), "the prox keeps dtype and shape, zero and what is not finite"),
        (NoZerosInTheProx(0.5), "zero is stationary 1 % above strength_max"),
        (SupportOfSmallWeights(0.5), "the support is a boolean tensor"),
        (ClaimsConvexity(0.5), "the value is convex"),
        (NoProxButAccepted(0.5), "a penalty without a prox refuses"),
        (HardForLasso(0.5), "the prox minimises its objective'"),
        (OneStepForAll(0.5), "with a step for each weight"),
        (InfinityBecomesZero(0.5), "the prox keeps dtype and shape, zero and what is not finite"),
        (MovesAtStepZero(0.5), "the prox keeps dtype and shape, zero and what is not finite"),
        (WrongSubdifferential(0.5), "the gradient agrees with subdiff_distance"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Penalty) else "",
)
def test_a_planted_fault_is_caught_by_its_law(penalty, law):
    with pytest.raises(AssertionError) as error:
        check_penalty(penalty, (4, 3))
    message = str(error.value)
    assert law in message
    assert type(penalty).__name__ in message
    assert len(message) < 2500


def registered(cls):
    return keras.saving.register_keras_serializable("tests")(cls)


@registered
class Own(Penalty):
    """A user's own penalty, with all that has to be written."""

    convex = True

    def __init__(self, strength=0.3, proximal=False):
        super().__init__(proximal)
        self.strength = strength

    def value(self, w):
        return self.strength * ops.sum(ops.absolute(w))

    def prox(self, w, step):
        return soft_threshold(w, step * self.strength)

    def get_config(self):
        return {"strength": self.strength, "proximal": self.proximal}


@registered
class WithoutProx(Own):
    prox = Penalty.prox


class NotRegistered(Own):
    pass


@registered
class NoProximalInTheConfig(Own):
    def get_config(self):
        return {"strength": self.strength}


@registered
class StrengthByAnotherName(Own):
    strength_names = ("lam",)

    def __init__(self, lam=0.3, proximal=False):
        Penalty.__init__(self, proximal)
        self.lam = lam

    def value(self, w):
        return self.lam * ops.sum(ops.absolute(w))

    def get_config(self):
        return {"lam": self.lam, "proximal": self.proximal}


@registered
class NamesAnotherStrength(Own):
    strength_names = ("lam",)


@registered
class AVector(Own):
    def value(self, w):
        return self.strength * ops.absolute(w)


@registered
class TooMuchInTheConfig(Own):
    def get_config(self):
        return {**super().get_config(), "extra": 1}


@registered
class ConstructorWithoutProximal(Own):
    def __init__(self, strength=0.3):
        super().__init__(strength)


@registered
class WithoutTheBaseConstructor(Own):
    def __init__(self, strength=0.3, proximal=False):
        self.strength = strength


@registered
class KeepsWhatFollowsTheStrength(Own):
    def __init__(self, strength=0.3, proximal=False):
        super().__init__(strength, proximal)
        self.half = strength / 2

    def value(self, w):
        return 2 * self.half * ops.sum(ops.absolute(w))


@registered
class NumPyInTheValue(Own):
    def value(self, w):
        return self.strength * ops.sum(ops.convert_to_tensor(np.abs(np.array(w))))


@registered
class FloatOfTheStep(Own):
    def prox(self, w, step):
        return super().prox(w, float(step))


@pytest.mark.parametrize("kind", [Own, WithoutProx])
def test_a_penalty_of_the_users_own_passes(kind):
    check_penalty(kind(), (5, 2))
    if kind is WithoutProx:
        with pytest.raises(ValueError, match="`proximal` must be False for WithoutProx, which has no prox"):
            kind(proximal=True)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (NotRegistered, "register_keras_serializable"),
        (NoProximalInTheConfig, "get_config has no `proximal`"),
        (StrengthByAnotherName, "no number as its `strength`"),
        (NamesAnotherStrength, "get_config has no lam"),
        (AVector, "a sum, a scalar"),
        (TooMuchInTheConfig, "its constructor does not take what get_config gives"),
        (ConstructorWithoutProximal, "its constructor does not take what get_config gives"),
        (WithoutTheBaseConstructor, r"calls `super().__init__(proximal)`"),
        (KeepsWhatFollowsTheStrength, "the constructor keeps what follows it"),
        (NumPyInTheValue, "use `keras.ops` alone"),
        (FloatOfTheStep, "use `keras.ops` alone"),
    ],
)
def test_whoever_forgets_something_is_told(kind, said):
    if kind is NumPyInTheValue and keras.backend.backend() == "torch":
        said = "gradient"  # nothing is compiled there: NumPy cuts the gradient off
    with pytest.raises(AssertionError) as error:
        check_penalty(kind(), (4, 3))
    assert said in str(error.value)
    assert kind.__name__ in str(error.value)


@pytest.mark.parametrize(("shape", "error"), [(4, TypeError), ((), TypeError), ((0, 3), ValueError), ((2.5,), ValueError)], ids=str)
def test_shapes(shape, error):
    with pytest.raises(error, match="`shape` must be a"):
        check_penalty(Own(), shape)


def test_it_takes_penalties_only():
    with pytest.raises(TypeError, match=r"`penalty` must be an instance of keras_reg\.regularizers\.Penalty"):
        check_penalty(L1, (3, 2))
