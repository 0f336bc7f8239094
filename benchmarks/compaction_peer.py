"""Torch-Pruning on its own ResNet-50, beside `compaction.py`: is the pruned network faster, and does it compute what the masked one does?

    pip install torch torchvision torch-pruning==1.6.1
    python benchmarks/compaction_peer.py

Half of the channels go, as its `MagnitudePruner` chooses them. Masked is the same network with these channels at zero in three ways: in
the convolutions' filters alone, as masks of weights leave it; in the scales and shifts of the normalization too, so that the channels are
zero where they are added and read; and with nothing masked, to see how far the outputs move. Every round times each network in turn,
eagerly, in inference mode; reported are medians. The difference is the largest of the outputs, in units of the largest output.
"""

import argparse
import copy
import json
import random
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
import torchvision

RATIO = 0.5


def network(generator):
    """ResNet-50 with scales, shifts and statistics as after training: none of them one or zero, those of data."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data += torch.tensor(generator.normal(size=module.num_features) / 4, dtype=torch.float32)
            module.bias.data += torch.tensor(generator.normal(size=module.num_features) / 10, dtype=torch.float32)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs(4))
    return model.eval()


def inputs(size):
    """Coarse patterns and noise, as in `compaction.py`."""
    generator = np.random.default_rng(1)
    patterns = np.kron(generator.normal(size=(size, 3, 4, 4)), np.ones((56, 56)))
    return torch.tensor(patterns + generator.normal(size=patterns.shape), dtype=torch.float32)


def pruned(model):
    """The smaller network, and from each module that makes channels to those of its channels that went."""
    small = copy.deepcopy(model)
    names = {module: name for name, module in small.named_modules()}
    importance = tp.importance.MagnitudeImportance(p=2)
    pruner = tp.pruner.MagnitudePruner(small, inputs(1), importance=importance, pruning_ratio=RATIO, ignored_layers=[small.fc])
    gone = {}
    start = time.perf_counter()
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            module = dependency.target.module
            makes = dependency.handler.__name__ == "prune_out_channels"
            if makes and isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d)):
                gone.setdefault(names[module], []).extend(indices)
        group.prune()
    return small, gone, time.perf_counter() - start


def masked(model, gone, kinds):
    model = copy.deepcopy(model)
    for name, indices in gone.items():
        module = model.get_submodule(name)
        if isinstance(module, kinds):
            module.weight.data[indices] = 0
            if module.bias is not None:
                module.bias.data[indices] = 0
    return model


@torch.inference_mode()
def difference(small, model):
    x = inputs(4)
    outputs, expected = small(x).double(), model(x).double()
    largest = expected.abs().max()
    assert (expected.max(0).values - expected.min(0).values).max() > 1e-3 * largest
    return float((outputs - expected).abs().max() / largest)


@torch.inference_mode()
def seconds(models, size, rounds):
    x = inputs(size)
    times = {name: [] for name in models}
    for model in models.values():
        model(x)
    for _ in range(rounds):
        for name in random.sample(list(models), len(models)):
            start = time.perf_counter()
            models[name](x)
            times[name].append(time.perf_counter() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=15, help="a third as many of batches larger than 16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    model = network(np.random.default_rng(0))
    small, gone, pruning = pruned(model)
    everything = masked(model, gone, (torch.nn.Conv2d, torch.nn.BatchNorm2d))
    filters = masked(model, gone, torch.nn.Conv2d)
    macs, parameters = zip(*(tp.utils.count_ops_and_params(one, inputs(1)) for one in (model, small)), strict=True)
    versions = f"Torch-Pruning {metadata.version('torch-pruning')}, PyTorch {torch.__version__}"
    print(f"ResNet-50, {versions}, {torch.get_num_threads()} threads: pruning took {pruning:.1f} s")
    print(f"parameters {parameters[0]:,} to {parameters[1]:,}, MACs {macs[0] / macs[1]:.2f} times fewer\n")
    differences = {
        "filters at zero": difference(small, filters),
        "filters, scales and shifts at zero": difference(small, everything),
        "nothing at zero": difference(small, model),
    }
    for name, value in differences.items():
        print(f"difference from the network with {name}: {value:.1e}")
    print("\n| batch | masked, ms | pruned, ms | times faster | quartiles |\n| --- | --- | --- | --- | --- |")
    results = {}
    for size in args.batch_sizes:
        rounds = max(3, args.rounds // 3) if size > 16 else args.rounds
        results[size] = times = seconds({"masked": everything, "pruned": small}, size, rounds)
        low, ratio, high = np.quantile(np.divide(times["masked"], times["pruned"]), [0.25, 0.5, 0.75])
        before, after = (1e3 * np.median(times[name]) for name in ("masked", "pruned"))
        print(f"| {size} | {before:.1f} | {after:.1f} | {ratio:.2f} | {low:.2f} to {high:.2f} |")
    if args.json:
        args.json.write_text(json.dumps({"macs": macs, "parameters": parameters, "differences": differences, "seconds": results}, indent=1))


if __name__ == "__main__":
    main()
