"""The example of every textbook: a polynomial of degree 12 through 20 noisy points, fitted by one layer with 12 inputs and a bias.

Without a penalty the curve goes through the noise. With one whose strength is too low it still does, with one too high it is nearly
flat; the strength in between is chosen on points that were not trained on (`keras_reg.selection.regularization_path`). L2 makes all
coefficients small, L1 makes most of them zero. A table of the coefficients, and a picture of all fits.

In words of probability: the mean square is the negative logarithm of a Gaussian likelihood, up to constants, and L2 that of a Gaussian
prior of mean 0 on every coefficient; the fit is the most probable polynomial given the points. `L2.from_prior(stddev, n)` is the strength
that a prior of this standard deviation means, times `2 * noise_variance` for Keras's mean square. A strength that is too low is a prior
that believes in coefficients of any size, one too high a prior that believes in none. L1 is a Laplace prior in the same way.

    python examples/polynomial.py
    python examples/polynomial.py --degree 9 --picture polynomial.png
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py

import keras
import numpy as np

from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1, L2
from keras_reg.selection import regularization_path
from keras_reg.visualization.style import COLOURS, new_figure

POINTS, NOISE, STEPS = 20, 0.25, 600
COPIES = 100  # of the points in an epoch: a step sees each once, and epochs have their cost
STEPS_AT_ONCE = 20
GRID = np.geomspace(1e-5, 10.0, 9).tolist()
WHICH = ("too low", "chosen", "too high")


def truth(t):
    return np.sin(np.pi * t)


def powers(t, degree):
    """Legendre polynomials, which span the same curves as the powers and make a layer that trains well."""
    return np.polynomial.legendre.legvander(t, degree)[:, 1:].astype("float32")


def layer(penalty, degree):
    model = keras.Sequential([keras.Input((degree,)), keras.layers.Dense(1, kernel_regularizer=penalty)])
    inner = keras.optimizers.SGD(0.2, momentum=0.9, nesterov=True)
    at_once = 1 if keras.backend.backend() == "torch" else STEPS_AT_ONCE
    model.compile(Proximal(inner) if penalty is not None else inner, "mse", steps_per_execution=at_once)
    return model


def fits(train, held, degree):
    """Strength, kernel and bias, without a penalty and with each at the three strengths."""
    data = [np.concatenate([part] * COPIES) for part in train]
    steps = {"epochs": STEPS // COPIES, "batch_size": len(train[0]), "shuffle": False, "verbose": 0}
    plain = layer(None, degree)
    plain.fit(*data, **steps)
    found = {("none", which): (0.0, *plain.get_weights()) for which in WHICH}
    for name, penalty in (("L2", L2(0.1, proximal=True)), ("L1", L1(0.1, proximal=True))):
        path = regularization_path(layer(penalty, degree), *data, GRID, validation_data=held, **steps)
        for which, point in zip(WHICH, (path.at(GRID[0]), path.best(), path.at(GRID[-1])), strict=True):
            found[name, which] = (point.strength, *point.weights)
    return found


def table(found, degree):
    head = ["penalty", "strength", "error", "zeros", *(f"c{i}" for i in range(1, degree + 1))]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    grid = np.linspace(-1, 1, 400)
    for (name, which), (strength, kernel, bias) in found.items():
        if (name, which) in (("none", "chosen"), ("none", "too high")):
            continue
        error = np.sqrt(np.mean((powers(grid, degree) @ kernel[:, 0] + bias[0] - truth(grid)) ** 2))
        cells = [name if name == "none" else f"{name}, {which}", f"{strength:.2g}", f"{error:.3f}", str(int((kernel == 0).sum()))]
        print("| " + " | ".join([*cells, *(f"{c:.2f}" if c else "0" for c in kernel[:, 0])]) + " |")


def picture(found, t, y, degree, file):
    panels = new_figure(11.0, 3.6).subplots(1, 3, sharey=True)
    grid = np.linspace(-1, 1, 400)
    for panel, which in zip(panels, WHICH, strict=True):
        panel.plot(t, y, "o", color="black", markersize=4, label="points")
        panel.plot(grid, truth(grid), color="black", linestyle=":", label="truth")
        for name, colour in (("none", COLOURS[0]), ("L2", COLOURS[1]), ("L1", COLOURS[2])):
            strength, kernel, bias = found[name, which]
            panel.plot(grid, powers(grid, degree) @ kernel[:, 0] + bias[0], color=colour, label=f"{name}: {strength:.2g}")
        panel.set_title(f"strength {which}")
        panel.set_xlabel("input")
        panel.set_ylim(-2, 2)
        panel.legend(fontsize="small")
    panels[0].set_ylabel("output")
    panels[0].figure.savefig(file, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--degree", type=int, default=12, help="of the polynomial, at least 3 (default 12)")
    parser.add_argument("--picture", default="polynomial.png", help="where the picture is written (default polynomial.png)")
    args = parser.parse_args()
    if args.degree < 3:
        parser.error(f"argument --degree must be at least 3. Received: {args.degree}")
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    t = generator.uniform(-1, 1, 2 * POINTS)
    y = (truth(t) + NOISE * generator.normal(size=2 * POINTS)).astype("float32")
    x = powers(t, args.degree)
    found = fits((x[:POINTS], y[:POINTS]), (x[POINTS:], y[POINTS:]), args.degree)
    table(found, args.degree)
    picture(found, t[:POINTS], y[:POINTS], args.degree, args.picture)
    strength = found["L2", "chosen"][0]
    stddev = L2(strength / (2 * NOISE**2)).prior_stddev(POINTS)
    print(f"\nL2 of strength {strength:.2g} is a Gaussian prior with a standard deviation of {stddev:.2g} on each coefficient.")
    print(f"The picture is in {args.picture}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
