"""LassoNet's protocol: 50 pixels are selected, and ExtraTrees that see no others are judged on images held out.

    python benchmarks/feature_selection.py --data mnist.npz fashion_mnist.npz

As in the paper (Lemhadri et al., 2021, table 2) there are 10,000 images: with `--images test`, as in its published program, those of the
test part, with `--images all` as many drawn from both parts. `--share` of them are for selection and training, the others for the
accuracy; the program has 0.4 (and 50 trees), the paper 0.8. `select_features` sees one dense layer of 128 units with dropout.
With `--picture` the pixels of the first seed are drawn.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from keras import layers
from sklearn.ensemble import ExtraTreesClassifier

from keras_reg.selection import select_features

PIXELS, IMAGES = 50, 10_000


def images(file, which, share, seed):
    with np.load(file) as data:
        parts = ("test",) if which == "test" else ("train", "test")
        x = np.concatenate([data[f"x_{part}"] for part in parts]).astype("float32") / 255
        y = np.concatenate([data[f"y_{part}"] for part in parts]).astype("int32")
    order = np.random.default_rng(seed).permutation(len(x))[:IMAGES]
    cut = int(share * IMAGES)
    return x[order[:cut]], y[order[:cut]], x[order[cut:]], y[order[cut:]]


def network(units, dropout, rate):
    hidden = [layers.Flatten(), layers.Dense(units, activation="relu"), layers.Dropout(dropout)]
    model = keras.Sequential([keras.Input((28, 28)), *hidden, layers.Dense(10)])
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def trees(x, y, x_test, y_test, indices, number, seed):
    flat, flat_test = (part.reshape(len(part), -1)[:, indices] for part in (x, x_test))
    return ExtraTreesClassifier(number, random_state=seed).fit(flat, y).score(flat_test, y_test)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="MNIST or Fashion-MNIST as keras.datasets stores them: .npz files")
    parser.add_argument("--images", choices=("test", "all"), default="all")
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--ratio", type=float, default=1.1, help="between strengths")
    parser.add_argument("--epochs", type=int, default=1, help="at each strength")
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--picture", help="a folder for pictures of the pixels")
    parser.add_argument("--out", default="feature_selection.jsonl", help="a line for each run is added")
    args = parser.parse_args()
    print("| data | seed | accuracy, chosen | accuracy, all pixels | accuracy, 50 at random | fits | seconds |\n|" + " --- |" * 7)
    for file in args.data:
        rows = []
        for seed in args.seeds:
            keras.utils.set_random_seed(seed)
            data = images(file, args.images, args.share, seed)
            start = time.time()
            model = network(args.units, args.dropout, args.rate)
            chosen = select_features(model, *data[:2], PIXELS, ratio=args.ratio, epochs=args.epochs, batch_size=128, seed=seed, verbose=0)
            seconds = time.time() - start
            some = np.random.default_rng(seed).permutation(28 * 28)[:PIXELS]
            score = [trees(*data, indices, args.trees, seed) for indices in (chosen.indices, slice(None), some)]
            rows.append(score)
            figures = [f"{value:.4f}" for value in score] + [str(len(chosen.points)), f"{seconds:.0f}"]
            print(f"| {pathlib.Path(file).stem} | {seed} | {' | '.join(figures)} |", flush=True)
            with open(args.out, "a") as out:
                row = {
                    "data": file,
                    "seed": seed,
                    "chosen": score[0],
                    "all": score[1],
                    "random": score[2],
                    "pixels": chosen.indices.tolist(),
                }
                out.write(json.dumps({**row, "seconds": seconds, **vars(args)}) + "\n")
            if args.picture and seed == args.seeds[0]:
                pathlib.Path(args.picture).mkdir(exist_ok=True)
                chosen.plot().savefig(pathlib.Path(args.picture, f"{pathlib.Path(file).stem}.png"), dpi=120)
        means = np.mean(rows, axis=0)
        print(f"| {pathlib.Path(file).stem} | mean of {len(rows)} | {means[0]:.4f} | {means[1]:.4f} | {means[2]:.4f} | | |", flush=True)


if __name__ == "__main__":
    main()
