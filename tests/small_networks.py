"""Weights, inputs and comparisons for tests that cut models down."""

import keras
import numpy as np
from keras import ops, tree

from keras_reg.models import compact, compaction_plan

KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "embeddings", "recurrent_kernel")


def scatter(model, seed=0, dead=0.5, layers=0.7):
    """Random weights, of which in a share of the layers a share of the rows and columns is zero; statistics as after training."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if not keras.backend.is_float_dtype(variable.dtype) or not variable.shape or variable.name in ("mean", "variance"):
            continue
        values = random.normal(size=variable.shape) * 0.5
        if variable.name in ("moving_variance", "gamma"):
            values = np.abs(values) + 0.5
        if variable.name in KERNELS:
            for axis in range(-min(2, len(variable.shape)), 0):
                if random.random() < layers / 2 or (axis == -1 and random.random() < layers):
                    np.moveaxis(values, axis, 0)[random.random(variable.shape[axis]) < dead] = 0
        elif len(variable.shape) == 1 and random.random() < 0.2:
            values[random.random(len(values)) < dead] = 0
        variable.assign(values)
    return model


def examples(model, number=3, seed=1, length=7, indices=5):
    """Inputs of a model, in its structure."""
    random = np.random.default_rng(seed)

    def make(tensor):
        shape = (tensor.shape[0] or number, *(size or length for size in tensor.shape[1:]))
        if "int" in tensor.dtype:
            return ops.convert_to_tensor(random.integers(0, indices, shape), tensor.dtype)
        if tensor.dtype == "bool":
            return ops.convert_to_tensor(random.random(shape) < 0.7, "bool")
        return ops.convert_to_tensor(random.normal(size=shape), tensor.dtype)

    # Sequential has no structure: it takes one tensor.
    return tree.map_structure(make, model.inputs[0] if isinstance(model, keras.Sequential) else model._inputs_struct)


def arrays(outputs):
    wide = "float64" if keras.config.floatx() == "float64" else "float32"
    return [np.array(ops.convert_to_numpy(ops.cast(output, wide))) for output in tree.flatten(outputs)]


def outputs(model, inputs):
    if keras.backend.backend() == "jax":
        import jax

        # One compilation for the model, and not one for each operation.
        found, _ = jax.jit(model.stateless_call)(
            [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables], inputs
        )
        return arrays(found)
    return arrays(model(inputs))


def difference(one, other):
    """The largest difference of outputs, relative to the largest entry, output by output."""
    assert [array.shape for array in one] == [array.shape for array in other]
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        a, b = np.nan_to_num(a), np.nan_to_num(b)
        worst = max(worst, np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-30))
    return worst


def check(model, tolerance=1e-5, inputs=None, fewer=None, constant=False):
    """Compacts a model and holds it to what compaction promises; returns the smaller model."""
    inputs = examples(model) if inputs is None else inputs
    weights = [np.array(weight) for weight in model.get_weights()]
    plan = compaction_plan(model)
    small = compact(model)
    again = compact(small)
    # Before any call: in training mode those change the weights.
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(small.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    before, after = outputs(model, inputs), outputs(small, inputs)
    if not constant:
        assert any(np.ptp(array) > 1e-6 for array in before), "the outputs are constant: equality would say nothing"
    assert (found := difference(before, after)) <= tolerance, found
    assert plan.total.parameters == (model.count_params(), small.count_params())
    if fewer is not None:
        assert (small.count_params() < model.count_params()) == fewer
    return small
