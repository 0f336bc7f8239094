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
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1

PACKAGE = str(pathlib.Path(keras_reg.__file__).parent)


def interrupted_at(number, function, folder=PACKAGE, again=0):
    """Whether `function` was interrupted: at the so-manieth line of the package that it comes to, and at as many later ones."""
    passed = 0

    def trace(frame, event, argument):
        nonlocal passed
        if not frame.f_code.co_filename.startswith(folder):
            return None
        if event == "line":
            passed += 1
            if number < passed <= number + 1 + again:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def tiny():
    return functional((3,), lambda x: OwnKernel(name="own")(layers.Dense(2, name="dense")(x)))


def under_proximal():
    model = functional((3,), lambda x: OwnKernel(name="own")(layers.Dense(2, name="dense", bias_regularizer=L1(0.3, proximal=True))(x)))
    model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def state(model):
    regularizers = [None if v.regularizer is None else v.regularizer.get_config() for v in model.weights]
    strengths = getattr(model.optimizer, "strengths", {}) if getattr(model, "optimizer", None) else {}
    kinds = [(type(layer), sorted(vars(layer))) for layer in model._flatten_layers()]
    return json.dumps([model.get_config(), regularizers, strengths], default=str), kinds


@pytest.mark.parametrize("again", [0, 2], ids=["once", "pressed again"])
@pytest.mark.parametrize("make", [tiny, under_proximal])
def test_done_or_not_done(make, again):
    model = make()
    penalty = L1(0.1, proximal=make is under_proximal)
    # What the optimizer has claimed is its own affair.
    folder = f"{PACKAGE}/models"
    without = state(model)
    attach(model, penalty)
    with_penalties = state(model)
    detach(model, weights="kernel")
    assert state(model) == without

    for function, start, goal in (
        (lambda: attach(model, penalty), without, with_penalties),
        (lambda: detach(model, weights="kernel"), with_penalties, without),
    ):
        if state(model) != start:
            attach(model, penalty)
        number = 0
        while interrupted_at(number, function, folder, again):
            now = state(model)
            assert now in (start, goal), number
            if now == goal:
                back = {"weights": "kernel"} if goal is with_penalties else {"penalty": penalty}
                (detach if goal is with_penalties else attach)(model, **back)
            assert state(model) == start
            number += 1
        assert number > 300  # it was there
        assert state(model) == goal


def test_nothing_that_is_tried_out_shows_in_another_thread():
    """As where a checkpoint is written meanwhile."""
    model = tiny()
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
