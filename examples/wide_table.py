"""A wide table: three categories, each value and each pair of values a column of its own, of which few say anything.

With `--values` values for each category that is over ten thousand columns, all 0 but six in each row. The model is linear in them: an
`Embedding` of one number for each column looks up what the six weigh, so that nobody has to write the zeros down (keras_reg's, of which a
step on TensorFlow reads and writes what a batch looks up; Keras's goes over all columns). A dozen values and a
dozen pairs decide the answer; the other columns are noise. L1 through `Proximal` drops the columns that never help, its strength
chosen on rows that were not trained on; Keras's own L1, at the same strength, leaves every weight that a row has touched non-zero.
Exit status: 0 if the sparse model is no worse on test rows, 1 otherwise.

    python examples/wide_table.py
    python examples/wide_table.py --values 100 --rows 50000
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in quickstart.py

from quiet import keras  # isort: skip
import numpy as np
from sklearn.metrics import roc_auc_score

from keras_reg.layers import Embedding
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import L1
from keras_reg.selection import regularization_path

PAIRS = ((0, 1), (0, 2), (1, 2))
HELPFUL = 12  # values, and as many pairs, that decide


def table(rows, values, generator):
    """For each row the six columns that are 1: three of values, then three of pairs."""
    # Few values are frequent and many rare, as words and shops are.
    frequency = 1 / np.arange(1, values + 1)
    drawn = generator.choice(values, (rows, 3), p=frequency / frequency.sum())
    singles = drawn + values * np.arange(3)
    pairs = [3 * values + values**2 * number + values * drawn[:, i] + drawn[:, j] for number, (i, j) in enumerate(PAIRS)]
    return np.concatenate([singles, np.stack(pairs, 1)], 1).astype("int32")


def answers(columns, values, generator):
    """Whether each row is a yes, and the columns that decide."""
    seen, often = np.unique(columns, return_counts=True)
    often = seen[often > len(columns) / 100]
    single = generator.permutation(often[often < 3 * values])[:HELPFUL]
    pair = generator.permutation(often[often >= 3 * values])[:HELPFUL]
    weights = np.zeros(3 * values + 3 * values**2)
    helpful = np.concatenate([single, pair])
    weights[helpful] = generator.choice([-3.0, 3.0], len(helpful))
    return (generator.random(len(columns)) < 1 / (1 + np.exp(-weights[columns].sum(1)))).astype("float32")[:, None], helpful


def linear(columns, penalty, wrap):
    keras.utils.set_random_seed(0)
    weights = Embedding(columns, 1, embeddings_initializer="zeros", embeddings_regularizer=penalty, name="weights")
    row = keras.Input((6,), dtype="int32")
    model = keras.Model(row, keras.ops.sum(weights(row), axis=-2))
    model.compile(wrap(keras.optimizers.Adagrad(0.5)), keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=60, help="of each of the three categories, at least 20 (default 60)")
    parser.add_argument("--rows", type=int, default=20_000, help="to train on, at least 2,000 (default 20,000)")
    args = parser.parse_args()
    if args.values < 20:
        parser.error(f"argument --values must be at least 20. Received: {args.values}")
    if args.rows < 2000:
        parser.error(f"argument --rows must be at least 2000. Received: {args.rows}")
    generator = np.random.default_rng(0)
    x = table(args.rows + 10_000, args.values, generator)
    y, helpful = answers(x, args.values, generator)
    (x, x_held, x_test), (y, y_held, y_test) = (np.split(part, [args.rows, args.rows + 5000]) for part in (x, y))
    columns = 3 * args.values + 3 * args.values**2
    fit = {"batch_size": 500, "epochs": 8, "verbose": 0}

    path = regularization_path(
        linear(columns, L1(1e-3, proximal=True), Proximal), x, y, strengths=6, eps=0.02, validation_data=(x_held, y_held), **fit
    )
    chosen = path.best(one_se=True).strength
    models = {"no penalty": linear(columns, None, lambda inner: inner)}
    models["L1 of Keras"] = linear(columns, keras.regularizers.L1(chosen), lambda inner: inner)
    for model in models.values():
        model.fit(x, y, **fit)
    models["L1, Proximal"] = path.model(chosen)

    print(f"{columns:,} columns, {len(helpful)} of them decide; {args.rows:,} rows; strength chosen on others: {chosen:.2g}\n")
    print("| model | area under the curve, test | weights that are not 0 | of those that decide |\n| --- | --- | --- | --- |")
    area = {}
    for name, model in models.items():
        weights = keras.ops.convert_to_numpy(model.get_layer("weights").embeddings)[:, 0]
        area[name] = roc_auc_score(y_test, model.predict(x_test, batch_size=1000, verbose=0))
        print(f"| {name} | {area[name]:.3f} | {np.count_nonzero(weights):,} | {np.count_nonzero(weights[helpful])} |")
    return 0 if area["L1, Proximal"] > max(area.values()) - 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
