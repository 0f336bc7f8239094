"""Every network of `keras.applications`, masked and compacted: is it smaller, and are its outputs equal?

    python benchmarks/compaction_zoo.py
    KERAS_BACKEND=torch python benchmarks/compaction_zoo.py --filters --models ResNet50 VGG16

A random half of the groups that `structural_groups` finds is set to zero; with `--filters` it is a random half of the filters and neurons
of every layer, while biases and normalizations stay: the units are then constant rather than zero, and leave where that is exact. The
weights are random, and so are biases, scales and the statistics of normalization. Inputs are four small images. The error is the largest
difference of the outputs, in units of the largest output; outputs that do not depend on the inputs count as a failure.

Deep random networks are chaotic: they magnify the rounding of their own inputs beyond all bounds, as trained ones do not. The variances
of normalization are raised, by a tenth at a time, until a change of all inputs by a millionth changes the outputs by at most two.
"""

import argparse
import gc
import inspect
import json
import time
from pathlib import Path

import keras
import numpy as np
from compaction import difference, inputs, masked_at_random, randomized, settled

from keras_reg.models import compact

TOLERANCE = 1e-5
SIZES = {"NASNetMobile": 224, "NASNetLarge": 331}
SIZE = 96
PREPROCESSING = ("ConvNeXt", "EfficientNet", "MobileNetV3")  # built in: they expect pixels from 0 to 255


def names():
    """All functions of the module that make networks."""
    return [name for name, thing in vars(keras.applications).items() if inspect.isfunction(thing)]


def network(name):
    size = SIZES.get(name, SIZE)
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)


def without_filters(model, generator):
    """Sets half of the filters and neurons of every layer but the last to zero, and leaves their biases and normalizations alone."""
    for layer in model.layers[:-1]:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)) and not isinstance(layer, keras.layers.DepthwiseConv2D):
            kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
            kernel[..., generator.random(kernel.shape[-1]) < 0.5] = 0
            layer.kernel.assign(kernel)
    return model


def steadied(model, x):
    """Raises the variances of normalization until the network does not magnify small changes of its inputs."""
    normalizations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    while normalizations:
        outputs, moved = (np.asarray(keras.ops.convert_to_numpy(model(change * x)), "float64") for change in (1, 1 + 1e-6))
        if np.max(np.abs(moved - outputs)) <= 2e-6 * np.max(np.abs(outputs)):
            break
        for layer in normalizations:
            layer.moving_variance.assign(1.1 * layer.moving_variance)
    return model


def measure(name, filters):
    generator = np.random.default_rng(0)
    model = randomized(network(name), generator)
    without_filters(model, generator) if filters else masked_at_random(model, 0.5, generator)
    x = inputs(model, 4)
    if name.startswith(PREPROCESSING):
        x = 127.5 + 64 * x
    steadied(settled(model, x, generator), x)
    expected = keras.ops.convert_to_numpy(model(x))
    start = time.perf_counter()
    small = compact(model)
    seconds = time.perf_counter() - start
    error = float(difference(keras.ops.convert_to_numpy(small(x)), expected))
    return {"model": name, "parameters": (model.count_params(), small.count_params()), "error": error, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=names(), default=names(), metavar="NAME", help="default: all")
    parser.add_argument("--filters", action="store_true", help="zero filters alone, not what comes after them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a line of JSON for each model")
    args = parser.parse_args()
    print(f"On {keras.backend.backend()}, Keras {keras.__version__}\n")
    print("| network | parameters | compacted | left | error | seconds |\n| --- | --- | --- | --- | --- | --- |")
    good = []
    for name in args.models:
        try:
            row = measure(name, args.filters)
        except AssertionError as error:
            print(f"| {name} | MISSED: {error} |", flush=True)
            continue
        gc.collect()  # a model is a cycle of references: the next may need the memory
        before, after = row["parameters"]
        ok = row["error"] < TOLERANCE and after < before
        good += [name] if ok else []
        figures = f"{before:,} | {after:,} | {after / before:.0%} | {row['error']:.1e}{'' if ok else ' MISSED'}"
        print(f"| {name} | {figures} | {row['seconds']:.1f} |", flush=True)
        if args.json:
            with args.json.open("a") as file:
                file.write(json.dumps({"backend": keras.backend.backend(), "filters": args.filters, **row}) + "\n")
    print(f"\n{len(good)} of {len(args.models)} smaller, and equal to within {TOLERANCE:g}")


if __name__ == "__main__":
    main()
