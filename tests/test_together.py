"""Weights of one shape get their proxes in one call: what comes out is what each has alone."""

import keras
import numpy as np
import pytest
from cases import CASES
from keras import layers, ops

from keras_reg.optimizers import Proximal
from keras_reg.optimizers import together as module
from keras_reg.regularizers import L1, L1L2, MCP, Grouped, GroupLasso, Penalty

BACKEND = keras.backend.backend()
STRENGTHS = (0.0, 0.05, 0.4)


def has_prox(case):
    try:
        case.make().prox(np.ones((2, 2), "float32"), 1.0)
    except NotImplementedError:
        return False
    return True


WITH_PROX = [case for case in CASES if has_prox(case)]


@pytest.mark.parametrize("case", WITH_PROX, ids=str)
def test_of_a_stack(case):
    random = np.random.default_rng(0)
    weights = random.normal(size=(3, 2, 3, 4)).astype("float32")
    several = case.make().stacked()
    if case.name.startswith(("StructuralGroupLasso", "L0Constraint", "StructuralL0Constraint")):
        assert several is None
        return
    column = ops.convert_to_tensor(np.reshape(np.array(STRENGTHS, "float32"), (3, 1, 1, 1)))
    for steps in (0.7, ops.convert_to_tensor(random.uniform(0.1, 1.0, size=weights.shape).astype("float32"))):
        alone = []
        for place, strength in enumerate(STRENGTHS):
            step = steps if isinstance(steps, float) else steps[place]
            try:
                alone.append(ops.convert_to_numpy(case.make().with_strength(strength).prox(weights[place], step)))
            except NotImplementedError:
                with pytest.raises(NotImplementedError):
                    several.at_strength(column).prox(weights, steps)
                return
        found = ops.convert_to_numpy(several.at_strength(column).prox(weights, steps))
        np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found == 0, np.array(alone) == 0)


class Own(Penalty):
    """Of the user's: nothing is known of it."""

    def __init__(self, strength, proximal=True):
        super().__init__(proximal)
        self.strength = strength

    def value(self, w):
        return self.strength * ops.sum(ops.square(w))

    def prox(self, w, step):
        assert len(w.shape) == 2
        return w / (1 + 2 * step * self.strength)

    def get_config(self):
        return {"strength": self.strength, "proximal": self.proximal}


class OwnL1(L1):
    def prox(self, w, step):
        assert len(w.shape) == 2
        return super().prox(w, step)


PENALTIES = {
    "strengths": [L1(0.1, proximal=True), L1(0.2, proximal=True), L1(0.1, proximal=True)],
    "kinds": [GroupLasso(0.1, proximal=True), GroupLasso(0.1, axis=-2, proximal=True), GroupLasso(0.3, axis=-2, proximal=True)],
    "ratios": [L1L2(0.1, 0.1, proximal=True), L1L2(0.1, 0.3, proximal=True), L1L2(0.2, 0.2, proximal=True)],
    "own": [Own(0.1), Own(0.2), OwnL1(0.1, proximal=True)],
}
LISTS = {"strengths": [3], "kinds": [1, 2], "ratios": [1, 2], "own": [1, 1, 1]}


def network(penalties):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), *(layers.Dense(4, kernel_regularizer=penalty) for penalty in penalties)])


@pytest.mark.parametrize("inner", ["sgd", "adam"])
@pytest.mark.parametrize("name", PENALTIES)
def test_training_is_what_it_is_one_by_one(name, inner, monkeypatch):
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    results = []
    for most in (2**20, 0):
        monkeypatch.setattr(module, "STACKED", most)
        model = network(PENALTIES[name])
        model.compile(Proximal(inner), "mse", run_eagerly=True)
        model.fit(x, x, epochs=2, verbose=0)
        lists = module.together(model.optimizer.claimed)
        assert sorted(map(len, lists)) == (LISTS[name] if most else [1, 1, 1])
        results.append(model.get_weights())
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_every_kind_is_checked():
    for last in (Grouped(MCP(0.1, proximal=True)), Own(0.1), Grouped(MCP(0.1, proximal=True), axis=0)):
        model = network([L1(0.1, proximal=True), GroupLasso(0.1, proximal=True), last])
        optimizer = Proximal("adam")
        if isinstance(last, Own):
            optimizer.build(model.trainable_variables)
        else:
            with pytest.raises(ValueError, match=r"cannot apply the penalty of .*/kernel', Grouped"):
                optimizer.build(model.trainable_variables)


def test_a_stack_has_a_largest_size(monkeypatch):
    monkeypatch.setattr(module, "STACKED", 32)
    model = network([L1(0.1, proximal=True) for _ in range(5)])
    model.compile(Proximal("sgd"), "mse")
    model.optimizer.build(model.trainable_variables)
    assert list(map(len, module.together(model.optimizer.claimed))) == [2, 2, 1]


def test_grouped_of_a_penalty_of_the_users_own():
    class OwnMCP(MCP):
        def prox(self, w, step):
            return super().prox(w, step)

    assert Grouped(MCP(0.1)).stacked() is not None
    assert Grouped(OwnMCP(0.1)).stacked() is None
