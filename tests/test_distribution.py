"""`Proximal` and gates on several devices and in several processes: the weights of a single one. And a run that is killed."""

import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()

TRAIN = """
import os, sys
import keras, numpy as np
from keras import layers
import keras_reg
from keras_reg.optimizers import Proximal
from keras_reg.layers import GaussianGate, HardConcreteGate
from keras_reg.regularizers import L1, GaussianGatePenalty, GroupLasso, HardConcreteL0

generator = np.random.default_rng(0)
X = generator.normal(size=(64, 6)).astype("float32")
Y = (X[:, :1] - 0.5 * X[:, 1:2]).astype("float32")

def build(inner):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((6,)),
        layers.Dense(8, activation="tanh", kernel_regularizer=GroupLasso(0.05, axis=-1, proximal=True)),
        layers.Dense(1, kernel_regularizer=L1(0.05, proximal=True)),
    ])
    model.compile(Proximal(inner), "mse")
    return model

def fit(model, epochs=20):
    history = model.fit(X, Y, batch_size=32, epochs=epochs, shuffle=False, verbose=0)
    return history.history["loss"][-1], model.get_weights()

INNER = {"SGD": lambda: keras.optimizers.SGD(0.05, momentum=0.9), "Adam": lambda: keras.optimizers.Adam(0.02)}

def same(expected, found):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    for a, b in zip(expected[1], found[1], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-6)
        np.testing.assert_array_equal(a == 0, b == 0)
    assert any(np.any(w == 0) for w in found[1][::2])
"""

GATES = """
def build_gated(per_sample):
    keras.utils.set_random_seed(0)
    concrete = HardConcreteGate(per_sample=per_sample, gate_regularizer=HardConcreteL0(0.02), seed=1)
    gaussian = GaussianGate(initial_noise=0.3, per_sample=per_sample, gate_regularizer=GaussianGatePenalty(0.01), seed=2)
    model = keras.Sequential([keras.Input((6,)), concrete, layers.Dense(8, "tanh"), gaussian, layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return model

def trained_alike(expected, found):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3)
    for a, b in zip(expected[1], found[1], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
    assert np.ptp(found[1][0]) > 0.01  # the gates have moved apart
"""

MIRRORED = (
    """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
    + TRAIN
    + GATES
    + """
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
for name, inner in INNER.items():
    with strategy.scope():
        model = build(inner())
    same(fit(build(inner())), fit(model))
with strategy.scope():
    model, first, second = build_gated(False), build_gated(True), build_gated(True)
# Both replicas draw the same noise, so that gates for a whole batch are those of a single device.
trained_alike(fit(build_gated(False), 3), fit(model, 3))
trained_alike(fit(first, 3), fit(second, 3))
for variable in first.variables:
    if not variable.path.startswith("seed_generator"):
        ours, theirs = (copy.numpy() for copy in variable.value.values)
        np.testing.assert_array_equal(ours, theirs)
print("SAME")
"""
)

TWO_WORKERS = (
    """
import json, os, sys
folder, rank, *addresses = sys.argv[1:]
os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": int(rank)}})
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
"""
    + TRAIN
    + """
rank = int(rank)
with strategy.scope():
    model = build(INNER["SGD"]())
    model.optimizer.build(model.trainable_variables)
assert strategy.num_replicas_in_sync == 2

def step(x, y):
    with tf.GradientTape() as tape:
        loss = (tf.reduce_mean(tf.square(model(x) - y)) + sum(model.losses)) / 2
    variables = model.trainable_variables
    model.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

run = tf.function(lambda x, y: strategy.run(step, args=(x, y)))
for _ in range(20):
    for start in (0, 32):
        half = slice(start + 16 * rank, start + 16 * rank + 16)
        run(tf.constant(X[half]), tf.constant(Y[half]))
np.savez(f"{folder}/{rank}.npz", *[v.numpy() for v in model.trainable_variables])
"""
)

DATA_PARALLEL = (
    TRAIN
    + GATES
    + """
import jax
assert len(jax.devices()) == 4
for name, inner in INNER.items():
    expected = fit(build(inner()))
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))
    found = fit(build(inner()))
    keras.distribution.set_distribution(None)
    same(expected, found)
expected = fit(build_gated(True), 5)
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))
trained_alike(expected, fit(build_gated(True), 5))
print("SAME")
"""
)

TWO_PROCESSES = (
    """
import sys
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
"""
    + TRAIN
    + """
rank = jax.process_index()
assert len(jax.devices()) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices(), auto_shard_dataset=False))
model = build(INNER["SGD"]())
# Each process brings its half of every batch.
half = np.concatenate([np.arange(16) + 16 * rank, 32 + np.arange(16) + 16 * rank])
model.fit(X[half], Y[half], batch_size=16, epochs=20, shuffle=False, verbose=0)
np.savez(f"{sys.argv[3]}/{rank}.npz", *[np.asarray(v.value.addressable_data(0)) for v in model.trainable_variables])
"""
)


def start(program, *arguments, **environment):
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    environment = {**os.environ, "KERAS_BACKEND": BACKEND, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def here(program):
    """What a program defines, run in this process: one more would only load Keras once more."""
    names = {}
    exec(program, names)
    return names


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_mirrored_strategy_on_two_devices():
    assert "SAME" in finished(start(MIRRORED))


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution runs on JAX")
def test_data_parallel_on_four_devices():
    assert "SAME" in finished(start(DATA_PARALLEL, XLA_FLAGS="--xla_force_host_platform_device_count=4"))


def free_addresses(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    for probe in probes:
        probe.close()
    return addresses


def assert_both_are_as_one(folder, processes):
    for process in processes:
        finished(process)
    names = here(TRAIN)
    _, alone = names["fit"](names["build"](names["INNER"]["SGD"]()))
    both = [list(np.load(folder / f"{rank}.npz").values()) for rank in range(2)]
    for found in both:
        for a, b in zip(alone, found, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-6)
            np.testing.assert_array_equal(a == 0, b == 0)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_two_workers_in_a_loop_of_ones_own(tmp_path):
    """Keras's own `fit` fails under MultiWorkerMirroredStrategy, with or without a penalty."""
    addresses = free_addresses(2)
    assert_both_are_as_one(tmp_path, [start(TWO_WORKERS, tmp_path, rank, *addresses) for rank in range(2)])


@pytest.mark.skipif(BACKEND != "jax", reason="jax.distributed")
def test_two_processes(tmp_path):
    (address,) = free_addresses(1)
    assert_both_are_as_one(tmp_path, [start(TWO_PROCESSES, address, rank, tmp_path) for rank in range(2)])


BACKED_UP = (
    TRAIN
    + """
def backed_up(folder, *callbacks):
    model = build(INNER["SGD"]())
    backup = keras.callbacks.BackupAndRestore(f"{folder}/backup")
    model.fit(X, Y, batch_size=16, epochs=4, shuffle=False, verbose=0, callbacks=[backup, *callbacks])
    return model.get_weights()
"""
)

KILLED = (
    BACKED_UP
    + """
import time

class Wait(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations >= 7:
            print("WAITING", flush=True)
            time.sleep(60)

backed_up(sys.argv[1], Wait())
"""
)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_goes_on_from_the_last_whole_epoch(tmp_path):
    """Killed in its second epoch and started again, a run repeats that epoch and ends where an uninterrupted one ends."""
    killed = start(KILLED, tmp_path)
    deadline = time.monotonic() + 200
    while "WAITING" not in killed.stdout.readline():
        assert killed.poll() is None, killed.stderr.read()[-3000:]
        assert time.monotonic() < deadline
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert list((tmp_path / "backup").iterdir())
    backed_up = here(BACKED_UP)["backed_up"]
    resumed, expected = backed_up(tmp_path), backed_up(tmp_path / "whole")
    for found, whole in zip(resumed, expected, strict=True):
        np.testing.assert_array_equal(found, whole)
        assert np.all(np.isfinite(found))
