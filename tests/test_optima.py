"""Where training with `Proximal` ends: at the optima that scikit-learn and skglm find."""

import keras
import numpy as np
import pytest
import skglm
from keras import layers, ops
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L1L2, GroupLasso, SparseGroupLasso
from keras_reg.selection import regularization_path

BACKEND = keras.backend.backend()
SAMPLES, FEATURES = 120, 40
STRENGTH = 0.2


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(SAMPLES, FEATURES)) @ (np.eye(FEATURES) + 0.2)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    truth = np.zeros(FEATURES)
    truth[:8] = generator.normal(size=8) * 2
    return x, x @ truth + 0.5 * generator.normal(size=SAMPLES)


X, Y = data()
LABELS = (Y > 0).astype("float64")
RATES = {
    "SGD": lambda steps: keras.optimizers.SGD(0.03),
    "SGD-momentum": lambda steps: keras.optimizers.SGD(0.01, momentum=0.9),
    "Adam": lambda steps: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, steps)),
    "Adagrad": lambda steps: keras.optimizers.Adagrad(1.0),
}


def fit(model, inner, steps, y=Y, loss="mse", batch_size=SAMPLES, metric="auto", x=X):
    """`steps` updates, without the toll of an epoch for each of them."""
    # Eager steps of a model this small are as fast as compiled ones on PyTorch.
    model.compile(Proximal(inner, metric=metric), loss, **({} if BACKEND == "torch" else {"steps_per_execution": 50}))
    copies = 50
    order = np.concatenate(
        [np.random.default_rng(i).permutation(SAMPLES) if batch_size < SAMPLES else np.arange(SAMPLES) for i in range(copies)]
    )
    epochs = steps * batch_size // (copies * SAMPLES)
    model.fit(x[order].astype("float32"), y[order].astype("float32"), batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return [np.asarray(w, "float64") for w in model.get_weights()]


def fitted(penalty, inner, steps, **problem):
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(1, kernel_regularizer=penalty)])
    return fit(model, inner, steps, **problem)


def gradient(kernel, bias, y=Y, logistic=False):
    z = X @ kernel[:, 0] + bias
    residual = (1 / (1 + np.exp(-z)) - y) if logistic else 2 * (z - y)
    return (X.T @ residual / SAMPLES)[:, None]


def squared(kernel, bias):
    return np.mean((X @ kernel[:, 0] + bias - Y) ** 2)


def assert_optimal(weights, penalty, objective, best, gap, residual=None, **problem):
    """The gap to the best known objective, relative, and the distance to the subdifferential."""
    kernel, bias = weights
    assert objective(kernel, bias) / best - 1 < gap
    if residual is not None:
        grad = gradient(kernel, bias, **problem)
        assert np.max(ops.convert_to_numpy(penalty.subdiff_distance(kernel, grad))) < residual


@pytest.mark.parametrize("inner", RATES)
def test_lasso(inner):
    # scikit-learn halves the squares.
    best = Lasso(alpha=STRENGTH / 2, tol=1e-12, max_iter=100_000).fit(X, Y)
    penalty = L1(STRENGTH, proximal=True)

    def objective(kernel, bias):
        return squared(kernel, bias) + STRENGTH * np.abs(kernel).sum()

    weights = fitted(penalty, RATES[inner](2000), 2000)
    assert_optimal(weights, penalty, objective, objective(best.coef_[:, None], best.intercept_), 1e-6, 1e-4)
    np.testing.assert_array_equal(weights[0][:, 0] != 0, best.coef_ != 0)


@pytest.mark.parametrize("inner", ["SGD", "Adam"])
def test_elastic_net(inner):
    best = ElasticNet(alpha=0.2, l1_ratio=0.5, tol=1e-12, max_iter=100_000).fit(X, Y)
    penalty = L1L2(l1=0.2, l2=0.1, proximal=True)

    def objective(kernel, bias):
        return squared(kernel, bias) + 0.2 * np.abs(kernel).sum() + 0.1 * np.sum(kernel**2)

    weights = fitted(penalty, RATES[inner](2000), 2000)
    assert_optimal(weights, penalty, objective, objective(best.coef_[:, None], best.intercept_), 1e-6, 1e-4)
    np.testing.assert_array_equal(weights[0][:, 0] != 0, best.coef_ != 0)


@pytest.mark.parametrize("inner", ["SGD-momentum", "Adam"])
def test_logistic_regression(inner):
    strength = 0.05
    # Newer scikit-learn has dropped the argument `penalty`.
    l1 = {"l1_ratio": 1.0} if LogisticRegression().penalty != "l2" else {"penalty": "l1"}
    best = LogisticRegression(**l1, solver="saga", C=1 / (strength * SAMPLES), tol=1e-10, max_iter=100_000).fit(X, LABELS)
    penalty = L1(strength, proximal=True)

    def objective(kernel, bias):
        z = X @ kernel[:, 0] + bias
        return np.mean(np.logaddexp(0, z) - LABELS * z) + strength * np.abs(kernel).sum()

    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    rate = {"SGD-momentum": keras.optimizers.SGD(0.1, momentum=0.9)}.get(inner) or RATES[inner](3000)
    weights = fitted(penalty, rate, 3000, y=LABELS, loss=loss)
    best_objective = objective(best.coef_.T, best.intercept_[0])
    assert_optimal(weights, penalty, objective, best_objective, 1e-6, 1e-4, y=LABELS, logistic=True)
    np.testing.assert_array_equal(weights[0][:, 0] != 0, best.coef_[0] != 0)


@pytest.mark.parametrize("inner", ["SGD", "Adam"])
def test_group_lasso(inner):
    """Eight groups of five features: a kernel of shape (8, 5, 1) inside an EinsumDense."""
    strength = 0.1
    best = skglm.GroupLasso(groups=5, alpha=strength / 2, weights=np.full(8, np.sqrt(5)), tol=1e-12, max_iter=10_000).fit(X, Y)
    expected = best.coef_.reshape(8, 5)
    penalty = GroupLasso(strength, axis=0, proximal=True)
    layer = layers.EinsumDense("bgi,gij->bj", (1,), bias_axes="j", kernel_regularizer=penalty)
    kernel, bias = fit(keras.Sequential([keras.Input((8, 5)), layer]), RATES[inner](2000), 2000, x=X.reshape(-1, 8, 5))

    def objective(kernel, bias):
        return squared(kernel.reshape(-1, 1), bias) + strength * np.sqrt(5) * np.linalg.norm(kernel.reshape(8, 5), axis=1).sum()

    assert objective(kernel, bias) / objective(expected, best.intercept_) - 1 < 1e-6
    grad = gradient(kernel.reshape(-1, 1), bias).reshape(8, 5, 1)
    assert np.max(ops.convert_to_numpy(penalty.subdiff_distance(kernel, grad))) < 1e-4
    alive = np.any(kernel != 0, axis=(1, 2))
    np.testing.assert_array_equal(alive, np.any(expected != 0, axis=1))
    assert 0 < alive.sum() < 8
    assert np.all((kernel != 0).any(axis=(1, 2)) == (kernel != 0).all(axis=(1, 2)))


@pytest.mark.parametrize("inner", ["SGD", "Adam"])
def test_sparse_group_lasso_is_stationary(inner):
    """Its optimum is the one point at which the subdifferential, checked elsewhere, holds 0."""
    penalty = SparseGroupLasso(0.1, 0.3, axis=0, proximal=True)
    kernel, bias = fitted(penalty, RATES[inner](2000), 2000)
    assert np.max(ops.convert_to_numpy(penalty.subdiff_distance(kernel, gradient(kernel, bias)))) < 1e-4
    assert 0 < np.count_nonzero(kernel) < FEATURES


@pytest.mark.parametrize("inner", ["SGD", "Adam"])
def test_lasso_from_minibatches(inner):
    """A rate that falls to zero averages the noise of the batches away; momentum keeps it from moving weights off zero meanwhile."""
    strength, steps = 0.4, 6000
    best = Lasso(alpha=strength / 2, tol=1e-12, max_iter=100_000).fit(X, Y)

    def objective(kernel, bias):
        return squared(kernel, bias) + strength * np.abs(kernel).sum()

    rate = keras.optimizers.schedules.CosineDecay({"SGD": 0.003, "Adam": 0.03}[inner], steps)
    optimizer = keras.optimizers.SGD(rate, momentum=0.95) if inner == "SGD" else keras.optimizers.Adam(rate)
    weights = fitted(L1(strength, proximal=True), optimizer, steps, batch_size=20)
    assert_optimal(weights, None, objective, objective(best.coef_[:, None], best.intercept_), 1e-4)
    np.testing.assert_array_equal(weights[0][:, 0] != 0, best.coef_ != 0)


@pytest.mark.parametrize("inner", ["SGD", "Adam"])
@pytest.mark.parametrize("penalty", [L1(1.0, proximal=True), GroupLasso(1.0, axis=0, proximal=True)], ids=["L1", "GroupLasso"])
def test_strength_max_is_where_the_last_weight_goes(inner, penalty):
    # The gradient with all penalised weights at zero, where the bias is the mean.
    largest = penalty.strength_max(gradient(np.zeros((FEATURES, 1)), Y.mean()))
    steps = 1200
    above, below = (fitted(penalty.with_strength(factor * largest), RATES[inner](steps), steps)[0] for factor in (1.001, 0.98))
    assert np.count_nonzero(above) == 0
    assert 0 < np.count_nonzero(below) < FEATURES / 2


def test_group_path():
    """Along a path: eight groups of five features, as above."""
    strengths, copies = [1.0, 0.3, 0.1], 1 if BACKEND == "torch" else 20
    layer = layers.EinsumDense("bgi,gij->bj", (1,), bias_axes="j", kernel_regularizer=GroupLasso(0.1, axis=0, proximal=True))
    model = keras.Sequential([keras.Input((8, 5)), layer])
    model.compile(
        Proximal(keras.optimizers.SGD(0.03, momentum=0.5)), "mse", **({} if BACKEND == "torch" else {"steps_per_execution": copies})
    )
    x, y = np.tile(X.reshape(-1, 8, 5), (copies, 1, 1)), np.tile(Y, copies)
    path = regularization_path(model, x, y, strengths, epochs=1000 // copies, batch_size=SAMPLES, shuffle=False, verbose=0)
    found = path.coefficients.reshape(3, -1)
    for one, strength, point in zip(found, strengths, path, strict=True):
        best = skglm.GroupLasso(groups=5, alpha=strength / 2, weights=np.full(8, np.sqrt(5)), tol=1e-12, max_iter=10_000).fit(X, Y)
        np.testing.assert_array_equal(one != 0, best.coef_ != 0)
        np.testing.assert_allclose(one, best.coef_, atol=1e-3 * np.abs(best.coef_).max())
        assert point.nonzero_groups == np.count_nonzero(best.coef_.reshape(8, 5).any(axis=1))
    assert 0 < path[0].nonzero_groups < 8
