"""Strengths read as priors, against SciPy's densities."""

import math

import numpy as np
import pytest
from scipy import stats

from keras_reg.regularizers import L1, L2

W = np.random.default_rng(0).normal(size=(30, 20)).astype("float32")


@pytest.mark.parametrize("num_examples", [1, 60000])
@pytest.mark.parametrize("width", [0.01, 1.0, 30.0])
def test_strengths_from_priors_and_back(width, num_examples):
    assert L1.from_prior(width, num_examples).l1 == pytest.approx(1 / (width * num_examples))
    assert L1.from_prior(width, num_examples).prior_scale(num_examples) == pytest.approx(width)
    assert L2.from_prior(width, num_examples).l2 == pytest.approx(1 / (2 * width**2 * num_examples))
    assert L2.from_prior(width, num_examples).prior_stddev(num_examples) == pytest.approx(width)


@pytest.mark.parametrize("width", [0.05, 1.0, 4.0])
def test_log_densities_against_scipy(width):
    laplace = float(L1.from_prior(width, 100).log_prior(W, 100))
    assert laplace == pytest.approx(stats.laplace.logpdf(W.astype("float64"), scale=width).sum(), rel=1e-5)
    gaussian = float(L2.from_prior(width, 100).log_prior(W, 100))
    assert gaussian == pytest.approx(stats.norm.logpdf(W.astype("float64"), scale=width).sum(), rel=1e-5)


def test_a_penalty_is_minus_its_log_density_per_example():
    for penalty in (L1.from_prior(0.3, 50), L2.from_prior(0.3, 50)):
        others = 2 * W
        gained = (float(penalty.log_prior(W, 50)) - float(penalty.log_prior(others, 50))) / 50
        assert float(penalty(others)) - float(penalty(W)) == pytest.approx(gained, rel=1e-4)


def test_a_flat_prior_has_no_density():
    assert L1(0).prior_scale(10) == math.inf
    assert L2(0).prior_stddev(10) == math.inf
    for penalty in (L1(0), L2(0)):
        with pytest.raises(ValueError, match="flat prior"):
            penalty.log_prior(W, 10)


@pytest.mark.parametrize(("cls", "name"), [(L1, "scale"), (L2, "stddev")])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, "1", True])
def test_bad_priors(cls, name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        cls.from_prior(**{name: value}, num_examples=10)
    with pytest.raises((ValueError, TypeError), match="`num_examples`"):
        cls.from_prior(**{name: 1.0}, num_examples=value)
