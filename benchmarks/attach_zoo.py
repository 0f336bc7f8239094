"""`attach`, `check`, `strip` and `detach` on a model of every family of `keras.applications`, with random weights and small images.

For each model: what is attached is in the loss to the digit and in the step by its gradient, is there again when a new process loads the
model, `check` finds nothing, `strip` gives the same outputs, and `detach` leaves the config as it was. Prints a row each, with seconds.
The backend is that of `KERAS_BACKEND`.

    python benchmarks/attach_zoo.py
    python benchmarks/attach_zoo.py ResNet50V2 VGG16
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_reg.models import attach, check, detach, strip
from keras_reg.regularizers import L1

FAMILIES = {
    **dict.fromkeys(("ResNet50", "ResNet50V2", "MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0"), 32),
    **dict.fromkeys(("DenseNet121", "ConvNeXtTiny", "NASNetMobile", "VGG16", "VGG19"), 32),
    "Xception": 71,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
}
STRENGTH, RATE = 1e-3, 0.1
IN_A_NEW_PROCESS = """
import json, sys
import keras
import keras_reg
model = keras.models.load_model(sys.argv[1])
print(json.dumps([float(keras.ops.convert_to_numpy(keras.ops.stop_gradient(loss))) for loss in model.losses]))
"""


def numbers(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def step(model, start, x, y):
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    model.reset_metrics()
    keras.utils.set_random_seed(0)
    return float(np.ravel(model.train_on_batch(x, y))[0]), numbers(model.trainable_variables)


def study(name: str, folder: Path) -> list[str]:
    keras.utils.set_random_seed(0)
    size = FAMILIES[name]
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=4)
    config, before = model.get_config(), numbers(model.weights)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, size, size, 3)).astype("float32"), rng.normal(size=(2, 4)).astype("float32")
    model.compile(keras.optimizers.SGD(RATE), keras.losses.MeanSquaredError(), run_eagerly=keras.backend.backend() != "jax")
    start, weights = numbers(model.variables), numbers(model.trainable_variables)
    loss, plain = step(model, start, x, y)
    moment = time.perf_counter()
    table = attach(model, L1(STRENGTH))
    seconds = time.perf_counter() - moment
    penalised = [v for v in model.trainable_variables if v.regularizer is not None]
    loss_after, moved = step(model, start, x, y)
    errors = []
    theirs = {id(v) for v in penalised}
    of_penalised = [value for v, value in zip(model.trainable_variables, weights, strict=True) if id(v) in theirs]
    values = STRENGTH * sum(np.abs(np.float64(value)).sum() for value in of_penalised)
    for variable, value, a, b in zip(model.trainable_variables, weights, plain, moved, strict=True):
        slope = STRENGTH * np.sign(value) if id(variable) in theirs else np.zeros_like(a)
        errors.append(np.max(np.abs((a - b) / RATE - slope)) / max(1, np.abs(a).max()))
    for variable, value in zip(model.variables, start, strict=True):
        variable.assign(value)
    clean = not check(model)
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    losses = [float(ops.convert_to_numpy(ops.stop_gradient(loss))) for loss in model.losses]
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(folder / "model.keras")]
    there = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    reloaded = max(abs(a - b) / max(losses) for a, b in zip(losses, there, strict=True))
    same = float(np.max(np.abs(strip(loaded).predict(x, verbose=0) - model.predict(x, verbose=0))))
    detach(model)
    restored = model.get_config() == config and all(np.array_equal(a, b) for a, b in zip(before, numbers(model.weights), strict=True))
    return [
        name,
        f"{model.count_params() / 1e6:.1f}",
        str(len(table.rows)),
        f"{seconds:.2f}",
        f"{abs(loss_after - loss - values) / values:.0e}",
        f"{max(errors):.0e}",
        f"{reloaded:.0e}",
        "yes" if clean else "NO",
        f"{same:.0e}",
        "yes" if restored else "NO",
    ]


def main(names: list[str]) -> int:
    columns = (
        "model",
        "M weights",
        "penalised",
        "attach s",
        "loss error",
        "gradient error",
        "reload error",
        "clean",
        "strip error",
        "restored",
    )
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in names or FAMILIES:
            print(f"| {' | '.join(study(name, Path(folder)))} |", flush=True)
            keras.backend.clear_session()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
