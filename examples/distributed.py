"""Training with exact zeros on several devices at once: the same weights as on one.

On TensorFlow by `MirroredStrategy`, on JAX by `keras.distribution.DataParallel`, over two devices into which the processor is divided here,
or over the GPUs that are there (`--gpus`). Nothing is to be done for `Proximal`: gradients are summed up over the devices before the
update, and the prox comes after it, once for all.
Exit status: 0 if the weights are those of one device, with the same zeros; 1 otherwise.

    python examples/distributed.py
    KERAS_BACKEND=jax python examples/distributed.py --gpus
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py
if "--gpus" not in sys.argv:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"

from quiet import keras  # isort: skip
import numpy as np
from keras import layers

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, GroupLasso


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(512, 20)).astype("float32")
    return x, x[:, :1] * x[:, 1:2] - x[:, 2:3]  # three of twenty inputs matter


def train():
    keras.utils.set_random_seed(0)
    groups = GroupLasso(0.03, axis=-2, proximal=True)
    hidden = layers.Dense(32, activation="tanh", kernel_regularizer=groups, name="hidden")
    model = keras.Sequential([keras.Input((20,)), hidden, layers.Dense(1, kernel_regularizer=L1(0.01, proximal=True), name="output")])
    model.compile(Proximal(keras.optimizers.Adam(0.01)), "mse")
    model.fit(*data(), batch_size=64, epochs=20, shuffle=False, verbose=0)
    return [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers]


def on_tensorflow(gpus):
    import tensorflow as tf

    if not gpus:
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices("GPU" if gpus else "CPU")])
    with strategy.scope():
        return strategy.num_replicas_in_sync, train()


def on_jax(gpus):
    devices = keras.distribution.list_devices("gpu" if gpus else "cpu")
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        return len(devices), train()
    finally:
        keras.distribution.set_distribution(None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", action="store_true", help="train on all GPUs, not on the processor")
    args = parser.parse_args()
    run = {"tensorflow": on_tensorflow, "jax": on_jax}.get(keras.backend.backend())
    if run is None:
        parser.error(f"Keras spreads models over devices on TensorFlow and JAX. Received: KERAS_BACKEND={keras.backend.backend()}")
    devices, several = run(args.gpus)
    one = train()
    difference = max(float(np.abs(a - b).max()) for a, b in zip(one, several, strict=True))
    zeros = [[int((kernel == 0).sum()) for kernel in kernels] for kernels in (one, several)]
    print(f"{devices} devices: zeros in the kernels {zeros[1]}, on one {zeros[0]}; weights differ by at most {difference:.1e}")
    return 0 if difference < 1e-3 and zeros[0] == zeros[1] else 1


if __name__ == "__main__":
    sys.exit(main())
