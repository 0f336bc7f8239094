"""The files stand without TensorFlow, and what goes wrong with them costs a warning and no training."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from event_files import Events, check_histogram
from small_fit import TAG, fit

from keras_reg.callbacks.event_file import read_histograms

BACKEND = keras.backend.backend()
START = "import sys\nimport warnings\n"
IMPORTS = "import keras\nimport numpy as np\nfrom small_fit import TAG, fit\n"


def command(program, *arguments):
    # What a fit may warn of besides is not ours.
    only_ours = 'warnings.simplefilter("ignore")\nwarnings.filterwarnings("always", message="WeightHistogram")\n'
    return [sys.executable, "-c", START + only_ours + program, *map(str, arguments)]


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}


def run(program, *arguments):
    return subprocess.run(command(program, *arguments), capture_output=True, text=True, timeout=120, env=environment())


def test_without_tensorflow(tmp_path):
    """Any import of it raises."""
    if BACKEND == "tensorflow":
        pytest.skip("TensorFlow is the backend of this process")
    program = f"""
sys.modules["tensorflow"] = None
{IMPORTS}
fit(sys.argv[1], updates=True)
from keras_reg.callbacks.event_file import read_histograms
print(len(read_histograms(sys.argv[1])[TAG]))
"""
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4\n"
    assert Events(tmp_path / "weights").steps(TAG) == [0, 2, 4, 6]


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="event files needs the package tensorboard: pip install tensorboard"):
        fit(tmp_path)


def test_our_reader_sees_what_tensorboards_sees(tmp_path):
    fit(tmp_path, freq=1, updates=True)
    theirs, ours = Events(tmp_path / "weights").histograms, read_histograms(str(tmp_path))
    assert set(ours) == set(theirs) == {TAG, f"{TAG}/update"}
    for tag, steps in theirs.items():
        assert list(ours[tag]) == list(steps)
        for step, rows in steps.items():
            np.testing.assert_array_equal(ours[tag][step], rows)


def test_a_remote_directory():
    """An address, of a file system that is in this process's memory: TensorFlow's own, or that of fsspec, which PyTorch brings."""
    address = "ram://logs" if BACKEND == "tensorflow" else "memory://logs"
    fit(address)
    assert list(read_histograms(address)[TAG]) == [0, 2, 4, 6]


def test_a_directory_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written to, so no more is logged; training goes on") as warned:
        model = fit(tmp_path / "file" / "logs", freq=1)
    assert len([warning for warning in warned if warning.category is UserWarning]) == 1
    assert model.optimizer.iterations == 6


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.warns(UserWarning, match="cannot be written to"):
        fit(tmp_path / "logs")


class At(keras.callbacks.Callback):
    """Does something at the start of the third epoch."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.action()


def test_a_directory_that_is_deleted(tmp_path):
    """A new file has what comes after."""
    with pytest.warns(UserWarning, match=r"has vanished\. Logging goes on in a new file") as warned:
        model = fit(tmp_path / "logs", At(lambda: shutil.rmtree(tmp_path / "logs")), epochs=4)
    assert len([warning for warning in warned if warning.category is UserWarning]) == 1
    events = Events(tmp_path / "logs" / "weights")
    assert events.steps(TAG) == [6, 8]
    check_histogram(events.histograms[TAG][8], keras.ops.convert_to_numpy(model.weights[0]))


def test_a_disk_that_is_full(tmp_path):
    """A limit on the size of files stands for it: the write that passes it is cut short."""
    program = f"""{IMPORTS}
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
print(int(fit(sys.argv[1], epochs=20).optimizer.iterations))
"""
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["40"]
    assert done.stderr.count("UserWarning: WeightHistogram: ") == 1
    assert "cannot be written to, so no more is logged; training goes on" in done.stderr
    (path,) = (tmp_path / "weights").iterdir()
    assert path.stat().st_size == 6000
    steps = Events(tmp_path / "weights").steps(TAG)
    assert len(steps) > 1
    assert steps == [2 * index for index in range(len(steps))] == list(read_histograms(str(tmp_path))[TAG])


def test_a_process_that_is_killed(tmp_path):
    program = f"""{IMPORTS}
import time
class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            print("now", flush=True)
            time.sleep(60)
fit(sys.argv[1], Stop(), epochs=5)
"""
    with subprocess.Popen(command(program, tmp_path), stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    assert Events(tmp_path / "weights").steps(TAG) == [0, 2, 4, 6]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


TOGETHER = {
    "jax": """
import jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", num_processes=2, process_id=int(sys.argv[3]))
""",
    "torch": """
import torch.distributed
torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{sys.argv[2]}", world_size=2, rank=int(sys.argv[3]))
""",
}


def test_of_several_processes_the_first_writes(tmp_path):
    if BACKEND == "tensorflow":
        pytest.skip("Keras's own fit fails under MultiWorkerMirroredStrategy")
    program = TOGETHER[BACKEND] + IMPORTS + "fit(f'{sys.argv[1]}/{sys.argv[3]}')\nprint('done')"
    port = free_port()
    commands = [command(program, tmp_path, port, rank) for rank in (0, 1)]
    processes = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) for one in commands]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert "done" in out, err[-3000:]
    assert Events(tmp_path / "0" / "weights").steps(TAG) == [0, 2, 4, 6]
    assert not (tmp_path / "1").exists()


def test_under_a_distribution_strategy(tmp_path):
    if BACKEND != "tensorflow":
        pytest.skip("a strategy of TensorFlow's")
    program = f"""{IMPORTS}
import tensorflow as tf
from keras_reg.callbacks import WeightHistogram
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="only", kernel_regularizer="l2")])
    model.compile("sgd", "mse")
callback = WeightHistogram(sys.argv[1], freq=1, updates=True)
history = model.fit(np.ones((8, 6)), np.ones((8, 5)), batch_size=4, epochs=3, verbose=0, callbacks=[callback])
np.savez(sys.argv[1] + "/weights.npz", kernel=model.get_weights()[0], penalty=history.history["penalty"])
"""
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    events = Events(tmp_path / "weights")
    assert events.steps(TAG) == list(range(7))
    with np.load(tmp_path / "weights.npz") as found:
        check_histogram(events.histograms[TAG][6], found["kernel"])
        np.testing.assert_allclose(found["penalty"][-1], 0.01 * np.sum(found["kernel"] ** 2), rtol=1e-5)


def test_fits_of_one_second_are_read_in_order(tmp_path):
    """TensorBoard goes by the names of the files."""
    for _ in range(11):
        fit(tmp_path, epochs=1)
    files = list((tmp_path / "weights").iterdir())
    assert len(files) == 11
    assert sorted(files) == sorted(files, key=lambda path: path.stat().st_mtime_ns)
