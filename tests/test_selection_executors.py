"""Fits in other processes: the same results in the same order, also where a process dies."""

import concurrent.futures
import multiprocessing

import keras
import numpy as np
import pytest
from keras import layers
from selection_workers import DiesOnce, Fails

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1
from keras_reg.selection import regularization_path

X = np.random.default_rng(0).normal(size=(60, 6)).astype("float32")
Y = X[:, 0] - X[:, 1]
ARGUMENTS = {"cv": 2, "epochs": 2, "seed": 1, "verbose": 0}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(1, kernel_regularizer=L1(0.1, proximal=True))])
    model.compile(Proximal("adam"), "mse")
    return model


@pytest.fixture(scope="module")
def here(model):
    return regularization_path(model, X, Y, [0.5, 0.05], **ARGUMENTS)


def assert_same(one, other):
    assert [p.strength for p in one] == [p.strength for p in other]
    for a, b in zip(one, other, strict=True):
        assert a.scores == pytest.approx(b.scores, rel=1e-4)
        assert a.errors == pytest.approx(b.errors, rel=1e-3)
        for mine, theirs in zip(a.weights, b.weights, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_process_that_dies(model, here, tmp_path):
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        path = regularization_path(
            model, X, Y, [0.5, 0.05], executor=pool, folder=tmp_path / "path", callbacks=[DiesOnce(str(tmp_path / "died"))], **ARGUMENTS
        )
    assert (tmp_path / "died").exists()
    assert_same(path, here)
    assert {file.name for file in (tmp_path / "path").iterdir()} == {"all", "fold_1", "fold_2", "path.json", "path.csv"}


def test_a_fit_that_fails_is_no_dead_worker(model):
    with concurrent.futures.ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match=r"(?s)all.*this fit cannot be"):
        regularization_path(model, X, Y, [0.5], executor=pool, callbacks=[Fails()], epochs=1, verbose=0)


def test_executors_that_cannot_be_used(model):
    with pytest.raises(TypeError, match="executor"):
        regularization_path(model, X, Y, [0.5], executor="processes", verbose=0)
    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with pool, pytest.raises(ValueError, match="spawn"):
        regularization_path(model, X, Y, [0.5], executor=pool, verbose=0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Starting workers takes as long as the other tests here together.")
@pytest.mark.filterwarnings("ignore")  # dask's own, of ports and large objects
def test_dask_of_which_one_worker_dies(model, here, tmp_path):
    """Two workers on loopback; every fit by itself without warm starts, which is compared with the same here."""
    from distributed import Client, LocalCluster

    arguments = {**ARGUMENTS, "cv": None, "validation_data": (X, Y), "warm_start": False}
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None)
    with cluster, Client(cluster) as client:
        path = regularization_path(
            model, X, Y, [0.5, 0.05], executor=client.get_executor(), callbacks=[DiesOnce(str(tmp_path / "died"))], **arguments
        )
    assert (tmp_path / "died").exists()
    assert_same(path, regularization_path(model, X, Y, [0.5, 0.05], **arguments))
