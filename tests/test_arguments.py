"""Whatever is given to a constructor: it is taken, or refused by an error that names the argument and says what came."""

import decimal
import fractions
import inspect

import keras
import numpy as np
import pytest

from keras_reg import callbacks, layers, losses, metrics, models, optimizers, selection
from keras_reg import regularizers as R

NASTY = {
    "10**400": 10**400,
    "-10**400": -(10**400),
    "10**5000": 10**5000,  # which Python does not even print
    "NaN": float("nan"),
    "inf": float("inf"),
    "-inf": -float("inf"),
    "-1": -1,
    "None": None,
    "True": True,
    "text": "x",
    "bytes": b"",
    "list": [],
    "dict": {},
    "object": object(),
    "array": np.ones(2),
    "empty array": np.ones(0),
    "NumPy's NaN": np.float32("nan"),
    "array of objects": np.array([None, {}], object),
    "list of numbers": [10**400, float("nan")],
    "ragged list": [[1.0], [1.0, 2.0]],
    "list of texts": ["x", None],
    "Decimal": decimal.Decimal("1.5"),
    "Fraction": fractions.Fraction(3, 2),
    "large Fraction": fractions.Fraction(10**400, 3),
    "complex": 1j,
}
VALID = {
    R.Penalty: {},
    R.L1: {},
    R.L2: {},
    R.L1L2: {},
    R.L0: {"strength": 0.1},
    R.MCP: {"strength": 0.1},
    R.SCAD: {"strength": 0.1},
    R.Lq: {"strength": 0.1},
    R.HoyerSquare: {"strength": 0.1},
    R.GroupLasso: {"strength": 0.1},
    R.SparseGroupLasso: {"l1": 0.1, "group": 0.1},
    R.Grouped: {"penalty": R.L1(0.1)},
    R.GroupHoyerSquare: {"strength": 0.1},
    R.StructuralGroupLasso: {"strength": 0.1},
    R.L0Constraint: {"sparsity": 0.5},
    R.StructuralL0Constraint: {"budget": 0.5},
    R.HardConcreteL0: {"strength": 0.1},
    R.GaussianGatePenalty: {"strength": 0.1},
    R.Sum: {"penalties": [R.L1(0.1), R.L2(0.1)]},
    optimizers.Proximal: {"inner_optimizer": "sgd"},
    layers.Embedding: {"input_dim": 3, "output_dim": 2},
    layers.HardConcreteGate: {},
    layers.GaussianGate: {},
    layers.GatedKernel: {"layer": keras.layers.Dense(3), "gate": layers.HardConcreteGate(per_sample=False)},
    losses.LabelSmoothingCrossentropy: {},
    losses.OnlineLabelSmoothingCrossentropy: {"num_classes": 3},
    metrics.ExpectedCalibrationError: {},
    callbacks.StrengthScheduler: {"schedule": lambda epoch: 0.1},
    callbacks.TargetSparsity: {"target": 0.5, "epoch": 2},
    callbacks.OnlineLabelSmoothing: {},
    callbacks.WeightHistogram: {"log_dir": "logs"},
}
OF_KERAS = ("name", "dtype", "reduction")
"""Handed on to Keras's base classes, which say of them what they say of their own."""


def raised(function, *given, **arguments):
    try:
        function(*given, **arguments)
    except Exception as error:
        return error


def arguments(kind):
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD and name not in OF_KERAS:
            yield name


@pytest.mark.parametrize("kind", VALID, ids=lambda kind: kind.__name__)
def test_constructors(kind):
    kind(**VALID[kind])
    if kind.__init__.__module__.startswith("keras.src"):
        return  # the constructor of Keras's own layer
    for argument in arguments(kind):
        for label, value in NASTY.items():
            error = raised(kind, **{**VALID[kind], argument: value})
            said = f"{kind.__name__}({argument}={label}): {type(error).__name__}: {error}"
            assert error is None or isinstance(error, (ValueError, TypeError)), said
            assert error is None or (argument in str(error) and "eceived" in str(error) and len(str(error)) < 700), said


W = np.ones((2, 3), "float32")
FUNCTIONS = {
    "prox": ("step", lambda value: R.L1(0.1).prox(W, value)),
    "prox of groups": ("step", lambda value: R.GroupLasso(0.1).prox(W, value)),
    "prox of structures": ("step", lambda value: R.StructuralGroupLasso(0.1, structure="a").prox(W, value)),
    "with_strength": ("strength", lambda value: R.MCP(0.1).with_strength(value)),
    "set_strength": ("strength", lambda value: R.L1L2(0.1, 0.1).set_strength(value)),
    "Proximal.set_strength": ("strength", lambda value: optimizers.Proximal("sgd").set_strength(value)),
    "schedule": ("schedule", lambda value: callbacks.StrengthScheduler(lambda epoch: value)),
    "strengths": ("strengths", lambda value: selection.regularization_path(PENALISED, W, W[:, :1], [value], verbose=0)),
    "eps": ("eps", lambda value: selection.regularization_path(PENALISED, W, W[:, :1], 3, eps=value, verbose=0)),
    "start": ("start", lambda value: selection.select_features(PENALISED, W, W[:, :1], 1, start=value, verbose=0)),
    "ratio": ("ratio", lambda value: selection.select_features(PENALISED, W, W[:, :1], 1, ratio=value, verbose=0)),
    "near_zero": ("near_zero", lambda value: models.sparsity(MODEL, near_zero=value)),
}
MODEL = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
PENALISED = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_regularizer=R.L1(0.1, proximal=True))])
PENALISED.compile(optimizers.Proximal("sgd"), "mse")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_that_no_float_holds(name):
    argument, function = FUNCTIONS[name]
    for value in (10**400, -(10**400), 10**5000, fractions.Fraction(10**400, 3)):
        error = raised(function, value)
        assert isinstance(error, (ValueError, TypeError)), error
        assert argument in str(error), error


def test_every_public_class_is_in_the_table():
    rooms = (R, optimizers, layers, losses, metrics, callbacks)
    public = {thing for room in rooms for name, thing in vars(room).items() if isinstance(thing, type) and not name.startswith("_")}
    assert {thing for thing in public if thing.__module__.startswith("keras_reg")} == set(VALID)
