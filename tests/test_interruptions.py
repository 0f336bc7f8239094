"""`attach` and `detach` are done or not done, wherever they are interrupted, and what they try out shows nowhere."""

import json
import pathlib
import sys
import threading

import keras
import pytest
from architectures import OwnKernel, functional
from keras import layers

import keras_reg
from keras_reg.models import attach, detach
from keras_reg.models.attachment.assignment import Assignment
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1

PACKAGE = str(pathlib.Path(keras_reg.__file__).parent)


def traced(function, at_line):
    """Run `function`, and `at_line(frame)` before every line of the package."""

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            at_line(frame)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)


def interrupted_at(number, function, again):
    """Whether `function` was interrupted: at this line of those that it comes to, and at so many that follow."""
    passed = -1

    def at_line(frame):
        nonlocal passed
        passed += 1
        if number <= passed <= number + again:
            raise KeyboardInterrupt

    try:
        traced(function, at_line)
    except KeyboardInterrupt:
        return True
    return False


def in_the_loss():
    return functional((3,), lambda x: OwnKernel(name="own")(layers.Dense(2, name="dense")(x)))


def under_proximal():
    model = functional((3,), lambda x: OwnKernel(name="own")(layers.Dense(2, name="dense", bias_regularizer=L1(0.3, proximal=True))(x)))
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()
    model.make_test_function()
    return model


MODELS = (in_the_loss, under_proximal)


def state(model):
    regularizers = [None if v.regularizer is None else v.regularizer.get_config() for v in model.weights]
    strengths = sorted(model.optimizer.strengths.items()) if getattr(model, "optimizer", None) else None
    kinds = [(type(layer), sorted(vars(layer))) for layer in model._flatten_layers()]
    return json.dumps([model.get_config(), regularizers, strengths], default=str), kinds


def kernels(model):
    return [v for v in model.weights if v.name == "kernel"]


def held(model):
    """All that `attach` could change, by identity."""
    attributes = [
        (id(type(layer)), {k: id(v) for k, v in vars(layer).items() if "regularizer" in k or "keras_reg" in k})
        for layer in model._flatten_layers()
    ]
    return attributes, [id(v.regularizer) for v in model.weights]


@pytest.mark.parametrize("make", MODELS)
def test_until_it_is_done_in_one_go_the_model_is_only_read(make):
    model = make()
    lines = 0

    def at_line(frame):
        nonlocal lines, applying
        applying = applying or frame.f_code is Assignment.apply.__code__
        if not applying:
            lines += 1
            assert held(model) == before, frame

    for function in (lambda: attach(model, L1(0.1, proximal=make is under_proximal)), lambda: detach(model, weights="kernel")):
        before, applying = held(model), False
        traced(function, at_line)
        assert applying
        assert held(model) != before
    assert lines > 1000


@pytest.mark.parametrize("again", [0, 2], ids=["once", "pressed again"])
@pytest.mark.parametrize("make", MODELS)
def test_done_or_not_done(make, again):
    model = make()
    without = state(model)
    on = Assignment(model, [(v, L1(0.1, proximal=make is under_proximal)) for v in kernels(model)])
    on.apply()
    with_penalties = state(model)
    off = Assignment(model, [(v, None) for v in kernels(model)])
    off.apply()
    assert without == state(model) != with_penalties

    for way, back, start, goal in ((on, off, without, with_penalties), (off, on, with_penalties, without)):
        number = 0
        while interrupted_at(number, way.apply, again):
            assert state(model) in (start, goal), number
            if state(model) == goal:
                back.apply()
            number += 1
        assert number > 50
        assert state(model) == goal


def test_an_error_undoes_all_of_it(monkeypatch):
    """Also that of the optimizer at the end."""
    model = under_proximal()
    before = state(model)
    refreshed = []

    def refresh(self):
        refreshed.append(1)
        if len(refreshed) == 1:
            raise RuntimeError("out of luck")
        original(self)

    original = Proximal.refresh_claims
    monkeypatch.setattr(Proximal, "refresh_claims", refresh)
    with pytest.raises(RuntimeError, match="out of luck"):
        attach(model, L1(0.1, proximal=True))
    assert state(model) == before


def test_nothing_that_is_tried_out_shows_in_another_thread():
    """As where a checkpoint is written meanwhile."""
    model = in_the_loss()
    seen, failed, stop = set(), [], threading.Event()

    def look():
        while not stop.is_set():
            try:
                seen.add(state(model)[0])
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=look)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        for _ in range(10):
            attach(model, L1(0.1))
            detach(model)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(switch)
    assert not failed
    assert seen
    assert not any("Mark" in text for text in seen)
