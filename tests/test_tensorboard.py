"""The real TensorBoard serves what the callback wrote, and a real browser shows it."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import browser
import keras
import numpy as np
import pytest
from event_files import check_histogram
from keras import layers

from keras_reg.callbacks import WeightHistogram
from keras_reg.regularizers import L1, GroupLasso

ARTEFACTS = Path(__file__).parent.parent / ".artifacts"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A log directory with two runs, beside Keras's own callback, and the weights that each ended with."""
    logs = tmp_path_factory.mktemp("trained") / "logs"
    random = np.random.default_rng(0)
    x = random.normal(size=(256, 20)).astype("float32")
    y = np.tanh(x[:, :3]) @ random.normal(size=(3, 2)).astype("float32")
    weights = {}
    for name, penalty in (("plain", None), ("penalised", L1(0.01))):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((20,)),
                layers.Dense(30, activation="relu", kernel_regularizer=penalty, name="hidden"),
                layers.Dense(2, kernel_regularizer=penalty and GroupLasso(0.01, axis=-2), name="output"),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse")
        callbacks = [WeightHistogram(logs / name, freq=10, updates=True, gradients=(x, y)), keras.callbacks.TensorBoard(logs / name)]
        model.fit(x, y, batch_size=32, epochs=8, verbose=0, callbacks=callbacks)
        weights[name] = {layer.name: keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers}
    return logs, weights


@pytest.fixture(scope="module")
def url(trained):
    """Where TensorBoard serves the directory."""
    logs, _ = trained
    # Named as it is from its parent: the pages show the name.
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logs.name, "--port", "0", "--reload_interval", "1"]
    said = logs.parent / "said.txt"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with open(said, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=logs.parent, env=environment)
    try:
        for _ in range(450):
            if found := re.search(r"TensorBoard \S+ at (http://\S+)", said.read_text()):
                break
            assert process.poll() is None, said.read_text()[-3000:]
            time.sleep(0.2)
        yield found[1]
    finally:
        process.terminate()
        process.wait(30)


def get(url, path, **query):
    with urllib.request.urlopen(f"{url}data/plugin/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
        return json.load(answer)


def wait_for_tags(url):
    for _ in range(100):
        tags = get(url, "histograms/tags")
        if all(f"{name}/weights" in tags for name in ("plain", "penalised")):
            return tags
        time.sleep(0.2)
    raise AssertionError(f"TensorBoard lists {tags}")


def test_its_api_gives_back_what_was_written(url, trained):
    _, weights = trained
    tags = wait_for_tags(url)
    expected = {f"{name}/kernel{kind}" for name in ("hidden", "output") for kind in ("", "/update", "/gradient")}
    for run in ("plain", "penalised"):
        assert set(tags[f"{run}/weights"]) == expected
        for layer, kernel in weights[run].items():
            records = get(url, "histograms/histograms", run=f"{run}/weights", tag=f"{layer}/kernel")
            # Wall time, step and rows of left edge, right edge and count; those with no width are TensorBoard's own padding.
            assert [record[1] for record in records] == [0, 10, 20, 30, 40, 50, 60, 64]
            check_histogram(np.array(records[-1][2]), kernel)
    scalars = get(url, "scalars/tags")
    assert set(scalars["penalised/weights"]) >= {"model/zeros", "model/penalty/L1", "model/data_loss", "hidden/kernel/strength"}
    assert "epoch_loss" in scalars["penalised/train"]
    values = get(url, "scalars/scalars", run="penalised/weights", tag="hidden/kernel/l1_norm")
    np.testing.assert_allclose(values[-1][2], np.abs(weights["penalised"]["hidden"]).sum(), rtol=1e-5)
    bands = get(url, "distributions/distributions", run="plain/weights", tag="output/kernel")
    assert len(bands) == 8


def test_a_browser_shows_it(url, tmp_path):
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium on this machine: install it (Debian: apt install chromium) or name one in CHROMIUM")
    wait_for_tags(url)
    ARTEFACTS.mkdir(exist_ok=True)
    page = browser.Browser(program, tmp_path)
    try:
        for tab in ("histograms", "distributions", "timeseries"):
            # Cards that are out of sight are not drawn: Time Series, where a name shows in two parts, is narrowed to these.
            page.open(f"{url}?tagFilter={urllib.parse.quote('^hidden/kernel')}#{tab}")
            names = ("", "/gradient", "/update")
            tags = ["hidden", *(f"/kernel{name}" for name in names)] if tab == "timeseries" else [f"hidden/kernel{name}" for name in names]

            def complete(seen, tags=tags):
                return set(tags[:2]) <= set(seen["texts"]) and sum(shapes > 0 for shapes in seen["charts"]) >= 2

            seen = page.wait_for(complete)
            page.screenshot(ARTEFACTS / f"tensorboard_{tab}.png")
            assert complete(seen), (tab, seen)
            assert "plain/weights" in seen["texts"]
    finally:
        page.close()
