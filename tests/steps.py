"""Training steps of an inner optimizer followed by a proximal map written out in NumPy: the reference for `Proximal`."""

import keras
import numpy as np
from keras import layers

STRENGTH = 0.4
OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1),
    "SGD-momentum": lambda: keras.optimizers.SGD(0.02, momentum=0.8),
    "SGD-nesterov": lambda: keras.optimizers.SGD(0.02, momentum=0.8, nesterov=True),
    "SGD-clipnorm-decay": lambda: keras.optimizers.SGD(0.1, clipnorm=0.5, weight_decay=0.1),
    "SGD-schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)),
    "Adam": lambda: keras.optimizers.Adam(0.03),
    "Adam-amsgrad": lambda: keras.optimizers.Adam(0.03, amsgrad=True),
    "AdamW": lambda: keras.optimizers.AdamW(0.03, weight_decay=0.1),
    "Nadam": lambda: keras.optimizers.Nadam(0.03),
    "Adamax": lambda: keras.optimizers.Adamax(0.03),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.03),
    "RMSprop-all": lambda: keras.optimizers.RMSprop(0.03, momentum=0.5, centered=True),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "Adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "Adafactor": lambda: keras.optimizers.Adafactor(0.03),
    "Lion": lambda: keras.optimizers.Lion(0.03),
    "Lamb": lambda: keras.optimizers.Lamb(0.03),
    "Ftrl": lambda: keras.optimizers.Ftrl(0.3, beta=0.1, l2_regularization_strength=0.01),
    "Muon": lambda: keras.optimizers.Muon(0.01),
}


def muon_works():
    """That of Keras 3.12 asks TensorFlow's variables for what they do not have."""
    try:
        keras.optimizers.Muon(0.01).apply([keras.ops.ones((2, 2))], [keras.Variable(np.ones((2, 2), "float32"))])
    except AttributeError:
        return False
    return True


if not muon_works():
    del OPTIMIZERS["Muon"]


def slots(optimizer, ending):
    """The optimizer's memory of the kernel that is saved under this name, as NumPy."""
    (found,) = (v for v in optimizer.variables if v.path.endswith(f"kernel_{ending}"))
    return keras.ops.convert_to_numpy(found).astype("float64")


def own_step(optimizer, rate, count):
    """What the optimizer multiplies an unchanging gradient by, weight by weight, after its update number `count`."""
    name = next(kind.__name__ for kind in type(optimizer).__mro__ if kind.__module__.startswith("keras.src.optimizers."))
    if name in ("Adam", "AdamW"):
        velocity = slots(optimizer, "velocity_hat" if optimizer.amsgrad else "velocity")
        return rate * np.sqrt(1 - optimizer.beta_2**count) / (np.sqrt(velocity) + optimizer.epsilon)
    if name == "Nadam":
        return rate / (np.sqrt(slots(optimizer, "velocity") / (1 - optimizer.beta_2**count)) + optimizer.epsilon)
    if name == "Adamax":
        return rate / (slots(optimizer, "norm") + optimizer.epsilon)
    if name == "RMSprop":
        mean = slots(optimizer, "average_gradient") if optimizer.centered else 0.0
        return rate / np.sqrt(slots(optimizer, "velocity") - mean**2 + optimizer.epsilon)
    if name == "Adagrad":
        return rate / np.sqrt(slots(optimizer, "accumulator") + optimizer.epsilon)
    if name == "Ftrl":
        return 1 / (np.sqrt(slots(optimizer, "accumulator")) / rate + 2 * optimizer.l2_regularization_strength + optimizer.beta / rate)
    raise AssertionError(name)


def problem():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 6)).astype("float32")
    return x, (x[:, :2] @ [[1.0, -0.5], [0.5, 1.0]] + 0.1 * generator.normal(size=(32, 2))).astype("float32")


def network(penalty=None, dtype=None):
    keras.utils.set_random_seed(1)
    layer = layers.Dense(
        2, kernel_regularizer=penalty, kernel_initializer=keras.initializers.RandomUniform(-0.2, 0.2, seed=3), name="dense"
    )
    return keras.Sequential([keras.Input((6,), dtype=dtype), layer])


def kernel(model):
    return np.array(keras.ops.convert_to_numpy(model.get_layer("dense").kernel))  # a copy: PyTorch hands out its own memory


def soft(z, threshold):
    return np.sign(z) * np.maximum(np.abs(z) - threshold, 0)


def reference(optimizer, metric, steps, batches=None, strength=STRENGTH):
    """The kernel after steps of the bare optimizer, each followed by a soft threshold, and the shares that the thresholds were of."""
    model = network()
    model.compile(optimizer, "mse", run_eagerly=True, jit_compile=False)
    ftrl = isinstance(optimizer, keras.optimizers.Ftrl)
    past = 0.0
    for count in range(steps):
        rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        model.train_on_batch(*(batches[count] if batches else problem()))
        z = kernel(model).astype("float64")
        adds_up = isinstance(optimizer, (keras.optimizers.SGD, keras.optimizers.RMSprop))
        momentum = optimizer.momentum if adds_up else 0.0
        past = momentum * past + rate
        reach = momentum * past + rate if getattr(optimizer, "nesterov", False) else past
        step = own_step(optimizer, reach, count + 1) if metric == "preconditioned" else reach
        new = soft(z, step * strength)
        model.get_layer("dense").kernel.assign(new)
        if ftrl:
            (linear,) = (v for v in optimizer.variables if v.path.endswith("kernel_linear"))
            # So that the weights it computes from its memory are the new ones.
            linear.assign(slots(optimizer, "linear") + (z - new) / own_step(optimizer, rate, count + 1))
    return kernel(model)
