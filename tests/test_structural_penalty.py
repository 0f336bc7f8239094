"""A group lasso over several weights: against concatenated groups, closed forms and brute force; in training, saving and compaction."""

import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.optimize import minimize

from keras_reg.models import attach, check, compact, compaction_plan, detach, strip, structural_groups
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, StructuralGroupLasso
from keras_reg.regularizers.structural import Groups


def residual_net():
    """Two convolutions, a batch normalization and a depthwise convolution whose channels leave together."""
    image = keras.Input((6, 6, 1))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2D(5, 3, padding="same", activation="relu", name="inner")(x)
    x = layers.add([x, layers.Conv2D(8, 3, padding="same", name="second")(y)])
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    return keras.Model(image, layers.Dense(3, name="output")(layers.Flatten()(x)))


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def random_tensors():
    rng = np.random.default_rng(3)
    return [rng.normal(size=shape) for _, shape in PARTS]


PARTS = (
    (StructuralGroupLasso(1.0, structure="s", axis=-1, weights=1.5), (3, 4)),
    (StructuralGroupLasso(1.0, structure="s", axis=-1, groups=[0, 1, 2, 3, 0, 1, 2, 3], weights=1.5), (2, 8)),
    (StructuralGroupLasso(1.0, structure="s", axis=0, groups=[-1, 2, 1], weights=[0.0, 1.5, 1.5]), (3, 2)),
    (StructuralGroupLasso(1.0, structure="s", axis=(1, 2), groups=[3, 0, 1, -1, 2, 2], weights=[1.5, 1.5, 1.5, 0.0, 1.5, 1.5]), (2, 2, 3)),
)


def gathered(tensors):
    """By group the entries of all tensors, and where they come from."""
    entries = {group: [] for group in range(4)}
    for place, ((part, _), w) in enumerate(zip(PARTS, tensors, strict=True)):
        axes = part.axis if isinstance(part.axis, tuple) else (part.axis % w.ndim,)
        for index in np.ndindex(w.shape):
            position = np.ravel_multi_index([index[a] for a in axes], [w.shape[a] for a in axes])
            group = position if part.groups is None else part.groups[position]
            if group >= 0:
                entries[group].append((place, index))
    return entries


def test_total_against_groups_gathered_by_a_loop():
    tensors = random_tensors()
    expected = sum(1.5 * np.linalg.norm([tensors[p][i] for p, i in entries]) for entries in gathered(tensors).values())
    total = Groups.of(list(PARTS)).total([ops.convert_to_tensor(w, dtype="float32") for w in tensors])
    np.testing.assert_allclose(float(total), expected, rtol=1e-6)


@pytest.mark.parametrize("each", [False, True], ids=["one-step", "a-step-for-each-weight"])
@pytest.mark.parametrize("strength", [0.3, 1.2, 40.0])
def test_prox_against_a_minimiser(each, strength):
    tensors = random_tensors()
    rng = np.random.default_rng(1)
    steps = [rng.uniform(0.2, 1.0, w.shape) if each else np.full(w.shape, 0.7) for w in tensors]
    given = [ops.convert_to_tensor(step, dtype="float32") for step in steps] if each else [0.7] * len(steps)
    found = Groups.of(list(PARTS)).prox([ops.convert_to_tensor(w, dtype="float32") for w in tensors], given, strength)
    found = [ops.convert_to_numpy(w) for w in found]
    for entries in gathered(tensors).values():
        x = np.array([tensors[p][i] for p, i in entries])
        step = np.array([steps[p][i] for p, i in entries])
        ours = np.array([found[p][i] for p, i in entries])

        def objective(y, x=x, step=step):
            return ((y - x) ** 2 / (2 * step)).sum() + 1.5 * strength * np.linalg.norm(y)

        best = minimize(objective, x * 0.5, method="BFGS", options={"gtol": 1e-10})
        if np.linalg.norm(x / step) <= 1.5 * strength:
            assert not ours.any()
        else:
            np.testing.assert_allclose(ours, best.x, atol=2e-4)
        assert objective(ours) <= min(best.fun, objective(0 * x)) + 1e-5
    outside = [(place, index) for place in (2, 3) for index in np.ndindex(tensors[place].shape)]
    inside = {entry for entries in gathered(tensors).values() for entry in entries}
    for place, index in set(outside) - inside:
        assert found[place][index] == np.float32(tensors[place][index])


def test_attach_penalises_the_structural_groups():
    model = randomize(residual_net())
    table = attach(model, StructuralGroupLasso(0.1))
    reached = {row.weight for row in table.rows}
    assert reached == {
        *("first/kernel", "norm/gamma", "norm/beta", "second/kernel", "second/bias", "depthwise/kernel", "depthwise/bias"),
        *("inner/kernel", "inner/bias"),
    }
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    model.optimizer.build(model.trainable_variables)
    sizes = [sum(part.values().size for part in group.slices if part.produces) for group in structural_groups(model)]
    expected = 0.1 * sum(np.sqrt(size) * group.norm() for size, group in zip(sizes, structural_groups(model), strict=True))
    np.testing.assert_allclose(sum(map(float, model.losses)), expected, rtol=1e-5)


def test_check_and_strip_know_it():
    model = residual_net()
    attach(model, StructuralGroupLasso(0.1))
    model.compile(Proximal(keras.optimizers.SGD(0.1, momentum=0.9)), "mse")
    model.optimizer.build(model.trainable_variables)
    assert not check(model).findings
    assert not strip(model).losses


@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_costs_weigh_groups(cost):
    model = randomize(residual_net())
    attach(model, StructuralGroupLasso(0.1, cost=cost))
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    model.optimizer.build(model.trainable_variables)
    groups = structural_groups(model)
    sizes = np.array([sum(part.values().size for part in group.slices if part.produces) for group in groups])
    costs = np.array([getattr(group, cost) for group in groups])
    expected = 0.1 * (np.sqrt(sizes) * costs / costs.mean() * [group.norm() for group in groups]).sum()
    np.testing.assert_allclose(sum(map(float, model.losses)), expected, rtol=1e-5)


def test_training_ends_at_the_optimum_in_closed_form():
    """Two inputs of orthogonal designs whose layers are added: a unit's two columns are one group."""
    n = 64
    design = np.linalg.qr(np.random.default_rng(0).normal(size=(n, 5)))[0] * np.sqrt(n)
    one, other = design[:, :3], design[:, 3:]
    target = np.random.default_rng(1).normal(size=(n, 4)) + one @ np.full((3, 4), [1, 0.1, 0, 0])
    inputs = keras.Input((3,)), keras.Input((2,))
    parts = [layers.Dense(4, use_bias=False, name=name)(x) for name, x in zip("ab", inputs, strict=True)]
    summed = layers.add(parts)
    # A reader, so that units may leave: its own weights are frozen.
    reader = layers.Dense(4, use_bias=False, name="reader", trainable=False)
    model = keras.Model(inputs, reader(summed))
    reader.kernel.assign(np.eye(4))
    strength = 0.25
    attach(model, StructuralGroupLasso(strength))
    model.compile(Proximal(keras.optimizers.SGD(0.5)), lambda y, p: ops.sum(ops.square(y - p), -1) / 2)
    for _ in range(60):
        model.train_on_batch([one, other], target)
    least_squares = np.concatenate([one, other], 1).T @ target / n
    threshold = strength * np.sqrt(5)
    lengths = np.linalg.norm(least_squares, axis=0)
    expected = least_squares * np.maximum(1 - threshold / lengths, 0)
    found = np.concatenate([model.get_layer(name).get_weights()[0] for name in "ab"])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (lengths <= threshold).any()
    np.testing.assert_array_equal(found == 0, np.broadcast_to(lengths <= threshold, found.shape))
    assert compact(model).get_layer("a").units == (lengths > threshold).sum()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 6, 1)).astype("float32")
    return x, np.stack([x.mean((1, 2, 3)), x[:, 0, 0, 0], x[:, 3, 3, 0]], 1)


@pytest.mark.parametrize("inner", ["SGD", "Adam"])
def test_units_leave_a_residual_network(inner, data, tmp_path):
    model = residual_net()
    attach(model, StructuralGroupLasso(0.015 if inner == "SGD" else 0.006))
    optimizer = keras.optimizers.SGD(0.02, momentum=0.9) if inner == "SGD" else keras.optimizers.Adam(0.01)
    model.compile(Proximal(optimizer), "mse")
    model.fit(*data, epochs=40, verbose=0)
    groups = structural_groups(model)
    dead = sum(group.norm() == 0 for group in groups)
    assert 0 < dead < len(groups)
    plan = compaction_plan(model)
    small = compact(model)
    assert small.count_params() == plan.total.parameters[1] < model.count_params()
    for name in ("first", "inner"):
        alive = sum(group.norm() > 0 for group in groups if any(part.layer == name and part.produces for part in group.slices))
        assert small.get_layer(name).filters == max(1, alive)
    np.testing.assert_allclose(small.predict(data[0], verbose=0), model.predict(data[0], verbose=0), rtol=1e-4, atol=1e-5)
    # The penalty went along, and training goes on.
    assert isinstance(small.get_layer("first").kernel_regularizer, StructuralGroupLasso)
    small.fit(*data, epochs=1, verbose=0)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(sum(map(float, again.losses)), sum(map(float, small.losses)), rtol=1e-5)


def test_saved_and_loaded_it_goes_on_as_it_would_have(data, tmp_path):
    model = residual_net()
    attach(model, StructuralGroupLasso(0.02, cost="macs"))
    model.compile(Proximal(keras.optimizers.Adam(0.01)), "mse")
    model.fit(*data, epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    code = (
        "import sys, numpy as np, keras, keras_reg\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "data = np.load(sys.argv[2])\n"
        "model.fit(data['x'], data['y'], epochs=2, verbose=0, shuffle=False)\n"
        "np.savez(sys.argv[3], *model.get_weights())\n"
    )
    np.savez(tmp_path / "data.npz", x=data[0], y=data[1])
    files = [str(tmp_path / name) for name in ("model.keras", "data.npz", "weights.npz")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, timeout=300)
    model.fit(*data, epochs=2, verbose=0, shuffle=False)
    with np.load(files[2]) as there:
        for ours, theirs in zip(model.get_weights(), there.values(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)


def test_one_strength_for_all_parts(data):
    model = residual_net()
    attach(model, StructuralGroupLasso(0.02))
    model.compile(Proximal(keras.optimizers.SGD(0.01)), "mse")
    model.fit(*data, epochs=1, verbose=0)
    before = sum(map(float, model.losses))
    model.optimizer.set_strength(0.04, path=model.get_layer("second").kernel.path)
    first = model.get_layer("first").kernel.path
    assert np.isclose(model.optimizer.strengths[first], 0.04)
    assert np.isclose(model.optimizer.strengths[model.get_layer("inner").kernel.path], 0.02)
    assert before < sum(map(float, model.losses)) < 2 * before


def test_without_proximal_its_gradient_acts_and_it_warns(data):
    model = residual_net()
    attach(model, StructuralGroupLasso(0.02))
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="no optimizer applies its prox"):
        model.fit(*data, epochs=1, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown = sum(map(float, model.losses))
    sizes = [sum(part.values().size for part in group.slices if part.produces) for group in structural_groups(model)]
    expected = 0.02 * sum(np.sqrt(size) * group.norm() for size, group in zip(sizes, structural_groups(model), strict=True))
    np.testing.assert_allclose(shown, expected, rtol=1e-5)


def test_errors_and_detach():
    with pytest.raises(ValueError, match=r"keras_reg\.models\.attach"):
        layers.Dense(3, kernel_regularizer=StructuralGroupLasso(0.1)).build((None, 2))
    with pytest.raises(ValueError, match="cost"):
        StructuralGroupLasso(0.1, cost="time")
    model = residual_net()
    config = model.get_config()
    with pytest.raises(ValueError, match="No unit of the model can leave"):
        attach(model, StructuralGroupLasso(0.1), include="first*")
    attach(model, L1(0.1), include="first")
    with pytest.raises(ValueError, match="already has"):
        attach(model, StructuralGroupLasso(0.1))
    detach(model)
    attach(model, StructuralGroupLasso(0.1), include="inner")
    assert [weight.regularizer is not None for weight in model.get_layer("first").weights] == [False]
    detach(model)
    assert model.get_config() == config
