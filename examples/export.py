"""A sparse model out of Keras: to a SavedModel, to LiteRT and to ONNX, each asked for the same outputs.

A network is trained on handwritten digits under a group lasso, its dead units are cut out, and the plain Keras model that is left
is exported. ONNX needs the packages `tf2onnx` and `onnxruntime` and is left out where they are not installed. TensorFlow has to be
the backend.
Exit status: 0 if all outputs agree, 1 otherwise.

    python examples/export.py
    python examples/export.py --folder served
"""

import argparse
import os
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits

from keras_reg.models import compact, strip
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import GroupLasso


def trained(x, y):
    keras.utils.set_random_seed(0)
    penalty = GroupLasso(2e-3, axis=-2, proximal=True)
    hidden = [keras.layers.Dense(units, activation="relu", kernel_regularizer=penalty) for units in (64, 32)]
    model = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10, kernel_regularizer=penalty)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Proximal(keras.optimizers.Adam(5e-3)), loss)
    model.fit(x, y, epochs=8, verbose=0)
    return model


def by_saved_model(model, path, x):
    import tensorflow as tf

    model.export(path, format="tf_saved_model", verbose=False)
    served = tf.saved_model.load(str(path))
    return served.serve(x).numpy()


def by_litert(saved_model, path, x):
    import tensorflow as tf

    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(saved_model)).convert())
    warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")  # for a package of its own
    interpreter = tf.lite.Interpreter(model_path=str(path))
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def by_onnx(model, path, x):
    import onnxruntime

    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the files are written (default: a folder that is removed again)")
    args = parser.parse_args()
    if keras.backend.backend() != "tensorflow":
        parser.error(f"TensorFlow has to be the backend. Received: KERAS_BACKEND={keras.backend.backend()}")
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    model = trained(x[::2], y[::2])
    small = compact(strip(model))
    expected = small.predict(x[1::2], verbose=0)
    print(f"{model.count_params()} parameters, {small.count_params()} when compacted")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.folder or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = {"SavedModel": by_saved_model(small, folder / "saved_model", x[1::2])}
        found["LiteRT"] = by_litert(folder / "saved_model", folder / "model.tflite", x[1::2])
        if find_spec("tf2onnx") and find_spec("onnxruntime"):
            found["ONNX"] = by_onnx(small, folder / "model.onnx", x[1::2])
    largest = {name: float(np.abs(outputs - expected).max()) for name, outputs in found.items()}
    for name, difference in largest.items():
        print(f"{name}: largest difference {difference:.1e}")
    return 0 if max(largest.values()) < 1e-4 * float(np.abs(expected).max()) else 1


if __name__ == "__main__":
    sys.exit(main())
