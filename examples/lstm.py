"""A series forecast by an LSTM that is larger than it need be: a group lasso over its units, and what is left as a smaller LSTM.

The series is a sum of two waves with noise. Two models read 20 values and tell the next: one trained as it is, one with a
`StructuralGroupLasso` on the LSTM, whose groups are all the weights of one unit: those of its four gates, from the input and from
the other units, and what the next layer reads of it. Units whose weights are all 0 leave with `compact`, which changes no output, and
what is left trains on without the penalty. The first model trains for as long.
Exit status: 0 if compaction leaves the outputs as they are, 1 otherwise.

    python examples/lstm.py
    python examples/lstm.py --units 64 --strength 3e-4
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py

from quiet import keras  # isort: skip
import numpy as np
from keras import layers

from keras_reg.models import attach, compact, compaction_plan, strip
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import StructuralGroupLasso

PAST, NOISE, BATCH = 20, 0.3, 40


def windows(start, length, generator):
    """Windows of the series without its last value, and that value."""
    t = np.arange(start, start + length)
    series = np.sin(2 * np.pi * t / 17) + 0.7 * np.sin(2 * np.pi * t / 7.3) + NOISE * generator.normal(size=length)
    cut = np.lib.stride_tricks.sliding_window_view(series.astype("float32"), PAST + 1)
    return cut[:, :-1, None], cut[:, -1:]


def network(units):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((PAST, 1)), layers.LSTM(units, name="memory"), layers.Dense(1, name="next")])


def train(model, optimizer, data, epochs):
    model.compile(optimizer, "mse", metrics=["mse"])
    model.fit(*data, batch_size=BATCH, epochs=epochs, verbose=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=32, help="of the LSTM, at least 2 (default 32)")
    parser.add_argument("--strength", type=float, default=1e-3, help="of the group lasso, above 0 (default 1e-3)")
    parser.add_argument("--epochs", type=int, default=40, help="of each of two trainings, at least 1 (default 40)")
    args = parser.parse_args()
    for name, least in (("units", 2), ("epochs", 1)):
        if getattr(args, name) < least:
            parser.error(f"argument --{name} must be at least {least}. Received: {getattr(args, name)}")
    if args.strength <= 0:
        parser.error(f"argument --strength must be above 0. Received: {args.strength}")
    generator = np.random.default_rng(0)
    data, test = windows(0, 400, generator), windows(5000, 1000, generator)

    def adam(rate):
        return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, args.epochs * -(-len(data[0]) // BATCH)))

    plain = network(args.units)
    for rate in (1e-2, 5e-3):
        train(plain, adam(rate), data, args.epochs)
    sparse = network(args.units)
    attach(sparse, StructuralGroupLasso(args.strength))
    train(sparse, Proximal(adam(1e-2)), data, args.epochs)
    small = compact(strip(sparse))
    difference = float(np.abs(small.predict(test[0], verbose=0) - sparse.predict(test[0], verbose=0)).max())
    train(small, adam(5e-3), data, args.epochs)

    error = {"as it is": plain.evaluate(*test, verbose=0)[1], "group lasso, compacted": small.evaluate(*test, verbose=0)[1]}
    print(f"mean square of the noise, which nobody can tell: {NOISE**2:.3f}\n")
    print("| LSTM | units | parameters | multiplications | mean square error, test |\n| --- | --- | --- | --- | --- |")
    for (name, value), model in zip(error.items(), (plain, small), strict=True):
        macs = compaction_plan(model).total.macs[0]
        print(f"| {name} | {model.get_layer('memory').units} | {model.count_params():,} | {macs:,} | {value:.3f} |")
    print(f"\nafter compaction outputs differ by at most {difference:.1e}")
    return 0 if difference < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
