"""A training loop by hand with `Proximal`, on TensorFlow (`GradientTape`), JAX (`stateless_apply`) and PyTorch (`backward`).

A linear model with 50 inputs, of which five matter, is trained under L1; the loop ends where `fit` does, with the same zeros.
Exit status: 0 if it does, 1 otherwise.

    python examples/custom_loop.py
    KERAS_BACKEND=jax python examples/custom_loop.py --steps 300
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py

import keras
import numpy as np
from keras import ops

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1

mse = keras.losses.MeanSquaredError()


def new_model():
    layer = keras.layers.Dense(1, kernel_initializer="zeros", kernel_regularizer=L1(0.2, proximal=True))
    return keras.Sequential([keras.Input((50,)), layer]), Proximal(keras.optimizers.SGD(0.05, momentum=0.5))


def by_tensorflow(model, optimizer, x, y, steps):
    import tensorflow as tf

    variables = model.trainable_variables

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = mse(y, model(x, training=True)) + sum(model.losses)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    for _ in range(steps):
        loss = step(x, y)
    return float(loss)


def by_jax(model, optimizer, x, y, steps):
    import jax

    def loss_of(trainable, others, x, y):
        predictions, others, losses = model.stateless_call(trainable, others, x, training=True, return_losses=True)
        return mse(y, predictions) + sum(losses), others

    @jax.jit
    def step(trainable, others, memory, x, y):
        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable, others, x, y)
        trainable, memory = optimizer.stateless_apply(memory, gradients, trainable)
        return loss, trainable, others, memory

    kinds = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    state = [[variable.value for variable in variables] for variables in kinds]
    for _ in range(steps):
        loss, *state = step(*state, x, y)
    for variables, values in zip(kinds, state, strict=True):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    return float(loss)


def by_torch(model, optimizer, x, y, steps):
    import torch

    variables = model.trainable_variables
    x, y = ops.convert_to_tensor(x), ops.convert_to_tensor(y)
    for _ in range(steps):
        model.zero_grad()
        loss = mse(y, model(x, training=True)) + sum(model.losses)
        loss.backward()
        with torch.no_grad():
            optimizer.apply([variable.value.grad for variable in variables], variables)
    return float(loss.detach())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of training, at least 1 (default 200)")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f"argument --steps must be at least 1. Received: {args.steps}")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 50)).astype("float32")
    y = (x[:, :5].sum(1, keepdims=True) + 0.1 * generator.normal(size=(200, 1))).astype("float32")

    model, optimizer = new_model()
    optimizer.build(model.trainable_variables)  # before the first loss: from here on the gradient of the penalty is stopped
    train = {"tensorflow": by_tensorflow, "jax": by_jax, "torch": by_torch}[keras.backend.backend()]
    loss = train(model, optimizer, x, y, args.steps)

    other, its_optimizer = new_model()
    other.compile(its_optimizer, mse)
    other.fit(x, y, batch_size=200, epochs=args.steps, shuffle=False, verbose=0)

    kernels = [ops.convert_to_numpy(each.layers[0].kernel) for each in (model, other)]
    difference = float(np.abs(kernels[0] - kernels[1]).max())
    zeros = [int((kernel == 0).sum()) for kernel in kernels]
    print(f"{keras.backend.backend()}: loss {loss:.3f} with the penalty, {zeros[0]} of 50 weights are 0")
    print(f"fit: {zeros[1]} of 50 weights are 0, largest difference {difference:.1e}")
    return 0 if difference < 1e-4 and zeros[0] == zeros[1] else 1


if __name__ == "__main__":
    sys.exit(main())
