"""Backbones of KerasHub, tiny, masked and compacted: what left them, and are the outputs equal?

    python benchmarks/compaction_hub.py
    KERAS_BACKEND=torch python benchmarks/compaction_hub.py --models Bert Llama "T5 gated"

Weights are random, and a random half of the groups that `structural_groups` finds is set to zero. A dense layer reads all that a backbone
gives, so that the state between its blocks may leave. For attention heads with their dimensions, feedforward units and the hidden state the
table says how many groups there are; the error is the largest difference of the outputs, in units of the largest one.
"""

import argparse
import collections
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_reg.models import compact, structural_groups, zero_groups

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from hub_backbones import backbones, inputs, kind_of, randomized, with_head
from small_networks import difference, outputs

TOLERANCE = 1e-5
KINDS = ("heads", "units", "hidden")


def measure(make):
    random = np.random.default_rng(0)
    model = randomized(with_head(make()), random)
    groups = structural_groups(model)
    zero_groups([group for group in groups if random.random() < 0.5])
    x = inputs(model, random)
    start = time.perf_counter()
    small = compact(model)
    seconds = time.perf_counter() - start
    return {
        "kinds": collections.Counter(map(kind_of, groups)),
        "parameters": (model.count_params(), small.count_params()),
        "error": float(difference(outputs(model, x), outputs(small, x))),
        "seconds": seconds,
    }


def main():
    known = backbones()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(known), default=list(known), metavar="NAME", help="default: all")
    args = parser.parse_args()
    # T5 hands masks to layers that do not know them, and says so.
    warnings.filterwarnings("ignore", message="Layer .* was passed an input with a mask")
    print(f"On {keras.backend.backend()}, Keras {keras.__version__}\n")
    print(f"| backbone | {' | '.join(KINDS)} | parameters | compacted | left | error | seconds |\n|{' --- |' * 9}")
    good = 0
    for name in args.models:
        try:
            row = measure(known[name])
        except Exception as error:  # the others are still of interest
            print(f"| {name} | MISSED: {type(error).__name__}: {str(error)[:100]} |", flush=True)
            continue
        before, after = row["parameters"]
        ok = row["error"] < TOLERANCE and after < before
        good += ok
        kinds = " | ".join(str(row["kinds"][kind] or "–") for kind in KINDS)
        missed = "" if ok else " MISSED"
        print(
            f"| {name} | {kinds} | {before:,} | {after:,} | {after / before:.0%} | {row['error']:.1e}{missed} | {row['seconds']:.1f} |",
            flush=True,
        )
    print(f"\n{good} of {len(args.models)} smaller, and equal to within {TOLERANCE:g}")


if __name__ == "__main__":
    main()
