"""Gates put into models that exist, and taken out again with what they have closed: outputs stay."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_reg.callbacks import WeightHistogram
from keras_reg.layers import GatedKernel, GaussianGate, HardConcreteGate
from keras_reg.layers.gate import Gate
from keras_reg.models import attach, compact, compaction_plan, insert_gates, sparsity, strip, structural_groups
from keras_reg.regularizers import L1, GaussianGatePenalty, HardConcreteL0

GATES = {
    "hard-concrete": lambda: HardConcreteGate(gate_regularizer=HardConcreteL0(1e-3)),
    "gaussian": lambda: GaussianGate(gate_regularizer=GaussianGatePenalty(1e-3)),
}


def dense():
    widths = [layers.Dense(12, "relu", name="a"), layers.Dropout(0.1), layers.Dense(8, "tanh", name="b")]
    return keras.Sequential([keras.Input((9,)), *widths, layers.Dense(3, name="c")])


def image():
    convolutions = [layers.Conv2D(6, 3, activation="relu", padding="same", name="a"), layers.MaxPooling2D(), layers.Conv2D(5, 3, name="b")]
    return keras.Sequential(
        [keras.Input((9, 9, 4)), *convolutions, layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(3, name="c")]
    )


def residual():
    x = keras.Input((6, 6, 3))
    stream = layers.Conv2D(7, 3, padding="same", name="a")(x)
    for name in "bc":
        branch = layers.Conv2D(5, 3, padding="same", activation="relu", name=f"{name}1")(layers.ReLU()(layers.BatchNormalization()(stream)))
        stream = stream + layers.Conv2D(7, 1, name=f"{name}2")(branch)
    return keras.Model(x, layers.Dense(3, name="d")(layers.GlobalAveragePooling2D()(layers.ReLU()(stream))))


def nested():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(6, "relu", name="b"), layers.Dense(7, name="c")], name="inner")
    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(3, name="d")(inner(layers.Dense(8, "relu", name="a")(x))))


def twice():
    x = keras.Input((5,))
    shared = layers.Dense(6, "relu", name="b")
    both = layers.Concatenate()([shared(layers.Dense(4, name="a")(x)), shared(layers.Dense(4, name="a2")(x))])
    return keras.Model(x, layers.EinsumDense("ab,bc->ac", 3, name="c")(both))


MODELS = {make.__name__: make for make in (dense, image, residual, nested, twice)}


def data_of(model):
    x = np.random.default_rng(0).normal(size=(8, *model.input_shape[1:])).astype("float32")
    return x, np.ones((8, 3), "float32")


def gates_of(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, Gate)]


def scattered(model):
    """With all kinds of gates, and weights that are no zeros."""
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, Gate):
            values = rng.uniform(-2, 4, layer.gate.shape)
            half = len(values) // layer.halves
            values[0], values[half % len(values)] = (-4, -4) if layer.halves == 1 else (0.1, 2)  # one that is closed
            layer.gate.assign(values)
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(size=layer.bias.shape))
    return model


def outputs(model, x):
    return ops.convert_to_numpy(model(x))


def assert_same(model, other, x):
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(other, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def is_plain(model):
    return all(type(layer).__module__.startswith("keras.") for layer in model._flatten_layers())


PLACES = ("before", "after", "kernel")
CASES = [(name, kind, "before") for name in MODELS for kind in GATES]
CASES += [(name, kind, where) for name, kind in zip(MODELS, [*GATES] * 3, strict=False) for where in ("after", "kernel")]


@pytest.mark.parametrize(("name", "kind", "where"), CASES)
def test_in_and_out_again(name, kind, where):
    model = MODELS[name]()
    x, _ = data_of(model)
    gated = insert_gates(model, GATES[kind](), where=where)
    np.testing.assert_allclose(outputs(gated, x), outputs(model, x), rtol=1e-6, atol=1e-7)  # gates start open
    assert len({layer.name for layer in gates_of(gated)}) == len(gates_of(gated)) > 0
    plain, small = strip(scattered(gated)), compact(gated)
    for one in (plain, small):
        assert is_plain(one)
        assert_same(gated, one, x)
    assert plain.count_params() == model.count_params()
    assert where == "kernel" or small.count_params() < model.count_params()
    assert {layer.name for layer in plain.layers if not isinstance(layer, layers.Rescaling)} == {layer.name for layer in model.layers}
    assert where == "after" or not any(isinstance(layer, layers.Rescaling) for layer in plain._flatten_layers())


def test_closed_gates_are_exact_zeros_and_their_units_leave():
    gated = insert_gates(dense(), GATES["hard-concrete"]())
    closed = {"a_gate": [0, 3], "b_gate": [1, 2, 5], "c_gate": [7]}
    for gate in gates_of(gated):
        values = np.full(gate.gate.shape, 3.0)
        values[closed[gate.name]] = -3
        gate.gate.assign(values)
    kernels = {name: ops.convert_to_numpy(strip(gated).get_layer(name).kernel) for name in "abc"}
    for name, kernel in kernels.items():
        assert np.flatnonzero(~kernel.any(1)).tolist() == closed[f"{name}_gate"]
    small, (features,) = compact(gated, inputs=True)
    assert [layer.kernel.shape[0] for layer in small.layers if hasattr(layer, "kernel")] == [7, 9, 7]
    assert features.tolist() == [1, 2, 4, 5, 6, 7, 8]
    assert compaction_plan(gated).total.parameters[1] == compact(gated).count_params()


def test_the_weights_are_what_is_behind_a_gate():
    model = dense()
    by_unit = {one.slices[0].layer: one for one in structural_groups(model)}
    for cost in ("parameters", "macs"):
        weights = {gate.name: gate.gate_regularizer.weights for gate in gates_of(insert_gates(model, GATES["gaussian"](), cost=cost))}
        assert weights == {"a_gate": 12.0, "b_gate": getattr(by_unit["a"], cost), "c_gate": getattr(by_unit["b"], cost)}
    assert weights["b_gate"] == 9 + 8
    twice_as_much = HardConcreteGate(gate_regularizer=HardConcreteL0(1e-3, weights=2.0))
    assert [gate.gate_regularizer.weights for gate in gates_of(insert_gates(model, twice_as_much, cost=None))] == [2.0] * 3
    kernels = gates_of(insert_gates(image(), HardConcreteGate(axis=-1, gate_regularizer=HardConcreteL0(1.0)), where="kernel", cost="macs"))
    assert [gate.gate_regularizer.weights for gate in kernels] == [9 * 4 * 81, 9 * 6 * 4, 20]


def test_a_gate_for_each_structural_group():
    gated = insert_gates(residual(), GATES["hard-concrete"]())
    # The three layers that read the stream share one; a channel costs what makes it, what reads it, and its normalization.
    assert {gate.name: gate.gate_regularizer.weights for gate in gates_of(gated)} == {
        "a_gate": 63.0,
        "b1_gate": 9 * 3 + 1 + 2 * (4 + 9 * 5) + 2 * (5 + 1) + 3,
        "b2_gate": 9 * 7 + 1 + 7,
        "c2_gate": 9 * 7 + 1 + 7,
    }
    gate = gated.get_layer("b1_gate")
    gate.gate.assign([-3.0, -3, 3, 3, 3, 3, 3])
    assert compact(gated).get_layer("a").filters == 5
    flat = insert_gates(image(), GATES["hard-concrete"]())
    assert [tuple(gate.gate.shape) for gate in gates_of(flat)] == [(4,), (6,), (5,)]  # channels, not what they are flattened to


@pytest.mark.parametrize("where", ["before", "kernel"])
def test_a_model_in_training_goes_on(where, tmp_path):
    keras.utils.set_random_seed(0)
    model = dense()
    attach(model, L1(1e-3))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    x, y = data_of(model)
    model.fit(x, y, epochs=2, verbose=0)
    gated = insert_gates(model, GATES["hard-concrete"](), where=where)
    assert int(gated.optimizer.iterations) == int(model.optimizer.iterations)
    assert len(gated.optimizer.variables) == len(model.optimizer.variables) + 2 * 3
    kept, start = (sorted(float(np.abs(ops.convert_to_numpy(v)).sum()) for v in one.optimizer.variables) for one in (gated, model))
    np.testing.assert_allclose(kept, [0.0] * 6 + start, rtol=1e-6)
    assert len(gated.losses) == 6
    first = gated.evaluate(x, y, verbose=0)
    assert first[1] == pytest.approx(model.evaluate(x, y, verbose=0)[1], rel=1e-5)
    gated.fit(x, y, verbose=0)
    gated.save(tmp_path / "gated.keras")
    loaded = keras.models.load_model(tmp_path / "gated.keras")
    assert_same(gated, loaded, x)
    small = compact(scattered(loaded))
    assert small.compiled
    assert len(small.losses) == 3
    small.fit(x, y, verbose=0)
    assert not strip(gated).losses
    keras.models.clone_model(gated)
    if where == "before":  # gates beside gates
        assert len(gates_of(insert_gates(gated, GATES["gaussian"](), include="b"))) == 4


def test_chosen_layers():
    model = dense()
    names = {
        place: [gate.name for gate in gates_of(insert_gates(model, GATES["gaussian"](), include="b", where=place))] for place in PLACES
    }
    assert set(map(tuple, names.values())) == {("b_gate",)}
    assert [gate.name for gate in gates_of(insert_gates(model, GATES["gaussian"](), exclude=["a", "c"]))] == ["b_gate"]
    assert len(gates_of(insert_gates(model, GATES["gaussian"](), where="after"))) == 2  # none on the outputs


def test_penalties_are_attached_to_gates_as_to_any_weight(tmp_path):
    gated = insert_gates(dense(), HardConcreteGate())
    assert not gated.losses
    table = attach(gated, HardConcreteL0(1e-3), weights="gate")
    assert {row.kept for row in table.rows} == {"HardConcreteGate.gate_regularizer"}
    gated.save(tmp_path / "m.keras")
    assert len(keras.models.load_model(tmp_path / "m.keras").losses) == 3


def test_the_reports_count_gates(tmp_path):
    gated = insert_gates(dense(), GATES["hard-concrete"]())
    gate = gated.get_layer("c_gate")
    gate.gate.assign([-4.0, -2.39, 0, 0, 0, 0, 4, 4])
    report = sparsity(gated)
    one = report.gates[-1]
    assert (one.name, one.gates, one.open, one.whole) == ("c_gate", 8, 7, 2)
    assert one.expected_open == pytest.approx(float(ops.convert_to_numpy(gate.open_probability()).sum()), rel=1e-6)
    assert report.to_dict()["gates"][-1]["open"] == 7
    assert "c_gate" in str(report)
    assert "expected open" in report._repr_html_()
    gated.compile(keras.optimizers.SGD(0.0), "mse")
    history = gated.fit(*data_of(gated), verbose=0, callbacks=[WeightHistogram(tmp_path, gates=True)]).history
    assert history["open_gates"] == [9 + 12 + 7]
    assert history["expected_open_gates"] == [pytest.approx(sum(one.expected_open for one in report.gates))]


def test_what_stays_a_multiplication():
    """Where a factor cannot go into weights, Keras multiplies."""
    x = keras.Input((4, 5, 3))
    h = HardConcreteGate(axis=(1, 2), name="places")(x)
    h = GaussianGate(name="sum")(h + x)
    h = HardConcreteGate(axis=1, name="rows")(layers.LayerNormalization()(h))
    model = scattered(keras.Model(x, HardConcreteGate(name="last")(layers.Dense(3, "tanh")(h))))
    data = data_of(model)[0]
    plain = strip(model)
    assert [layer.name for layer in plain.layers if isinstance(layer, layers.Rescaling)] == ["places", "sum", "rows", "last"]
    assert is_plain(plain)
    assert_same(model, plain, data)
    assert_same(model, compact(model), data)
    again = keras.models.model_from_json(plain.to_json())
    again.set_weights(plain.get_weights())
    assert_same(model, again, data)


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.gate, self.dense = HardConcreteGate(), layers.Dense(2)

    def call(self, x):
        return self.dense(self.gate(x))


def test_what_is_refused():
    own = Own()
    own(np.ones((2, 3)))
    for function in (strip, compact, lambda model: insert_gates(model, HardConcreteGate())):
        with pytest.raises(ValueError, match="a subclassed Own"):
            function(own)
    built = HardConcreteGate()
    built.build((None, 3))
    for gate in (built, layers.Dense(3), GatedKernel(layers.Dense(3), HardConcreteGate(per_sample=False))):
        with pytest.raises(TypeError, match=r"`gate` must be a gate of keras_reg\.layers that is in no model yet.*eceived"):
            insert_gates(dense(), gate)
    for arguments, said in (
        ({"where": "inside"}, "`where` must be one of 'before', 'after', 'kernel'"),
        ({"cost": "time"}, "`cost` must be one of"),
        ({"include": "nothing"}, "`include` holds 'nothing'"),
        ({"include": layers.Dropout}, "`include` holds"),
    ):
        with pytest.raises(ValueError, match=said):
            insert_gates(dense(), HardConcreteGate(), **arguments)
    with pytest.raises(ValueError, match="`cost` must be None where the penalty of `gate` lists weights"):
        insert_gates(dense(), HardConcreteGate(gate_regularizer=HardConcreteL0(0.1, [1, 2])))
    wrapped = keras.Sequential([keras.Input((4, 3)), layers.TimeDistributed(layers.Dense(2))])
    with pytest.raises(ValueError, match="that the model calls itself"):
        insert_gates(wrapped, HardConcreteGate())
    one = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="all give its outputs"):
        insert_gates(one, HardConcreteGate(), where="after")
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Dense(3)])  # whole numbers may be indices
    with pytest.raises(ValueError, match="It is not known which units there are before"):
        insert_gates(model, HardConcreteGate())
