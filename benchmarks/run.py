"""Every speed benchmark of the package in one run: a table in Markdown, and the same as JSON.

    python benchmarks/run.py                            # hours on two processors
    python benchmarks/run.py --only proximal --backends torch
    python benchmarks/run.py --quick                    # that all of them run; its times say nothing

Each program runs in a process of its own, with its peers in turns beside it, and prints tables; they are gathered as they are. One that
fails does not keep the others from running, and the run ends with its name and an error. Where there is a GPU, JAX and PyTorch use it,
and the tables name it.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
BACKENDS = ("tensorflow", "jax", "torch")
ONE_TURN = ("--rounds", "1", "--steps", "1", "--batch-size", "8")
PACKAGES = ("keras-reg", "keras", "tensorflow", "jax", "torch", "numpy", "torch-pruning")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A program of this folder.

    Attributes:
        peer: What its ratios are to.
        target: What is to be reached, where its tables do not say so.
        arguments, quick: Of the whole run and of the quick one.
    """

    peer: str
    target: str = ""
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    backends: tuple[str, ...] = BACKENDS


BENCHMARKS = {
    "proximal": Benchmark(
        "the bare optimizer, in the same rounds",
        quick=(*ONE_TURN, "--penalties", "L1"),
    ),
    "depth": Benchmark("the bare optimizer", quick=("--layers", "2", "--rounds", "1", "--steps", "1", "--penalties", "L1")),
    "regularizers": Benchmark("Keras's own L1 and L2", quick=(*ONE_TURN, "--penalties", "L1")),
    "label_smoothing": Benchmark("one-hot labels in Keras's loss, and PyTorch's own", quick=("--rounds", "1", "--shapes", "256x10")),
    "memory": Benchmark(
        "the bare optimizer",
        "at most 1.3 times the bare optimizer's",
        quick=("--size", "128", "--runs", "1"),
        backends=("tensorflow", "torch"),
    ),
    "wide": Benchmark(
        "Keras's `Embedding` without a penalty", "at most 1.5", quick=("--rows", "100", "--rounds", "1"), backends=("tensorflow",)
    ),
    "weight_histogram": Benchmark("Keras's `TensorBoard`", quick=("--rounds", "2", "--no-training"), backends=("tensorflow",)),
    "compaction": Benchmark(
        "the same network before it is compacted", "faster", quick=("--model", "LeNet-300-100", "--batch-sizes", "1", "--rounds", "1")
    ),
    "warm_starts": Benchmark("the same path with cold starts", "fewer epochs", quick=("--epochs", "1"), backends=("tensorflow",)),
}


def processor():
    """The model's name, as the system gives it, and the GPU, if there is one."""
    try:
        names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    try:
        found = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True)
        gpu = [found.stdout.strip()]
    except (OSError, subprocess.CalledProcessError):
        gpu = []
    return ", ".join([f"{os.cpu_count()} x {names[0] if names else platform.processor() or platform.machine()}", *gpu])


def facts():
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=FOLDER, capture_output=True, text=True).stdout.strip()
    return {
        "device": processor(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


def tables_in(text):
    """The tables of Markdown in what a program has printed: for each its rows, by the names of the columns."""
    tables, rows = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if rows is None:
            header, rows = cells, []
            tables.append(rows)
        elif set("".join(cells)) - set("-: "):
            # Two columns may have one name, as ratios do.
            names = [name if header.index(name) == place else f"{name} of {header[place - 1]}" for place, name in enumerate(header)]
            rows.append(dict(zip(names, cells, strict=False)))
    return tables


def run(name, backend, quick):
    benchmark = BENCHMARKS[name]
    command = [sys.executable, str(FOLDER / f"{name}.py"), *(benchmark.quick if quick else benchmark.arguments)]
    start = time.perf_counter()
    # What goes on meanwhile is shown; what is found is kept.
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    return {
        "benchmark": name,
        "backend": backend,
        "peer": benchmark.peer,
        "target": benchmark.target,
        "seconds": round(time.perf_counter() - start, 1),
        "failed": done.returncode != 0,
        "printed": done.stdout,
        "tables": tables_in(done.stdout),
    }


def markdown(about, runs):
    lines = ["# Speed", "", f"Measured on {about['date']} at `{about['commit']}`: {about['device']}, Python {about['python']}, "]
    lines += [", ".join(f"{package} {version}" for package, version in about["versions"].items()) + ".", ""]
    for one in runs:
        target = f" Target: {one['target']}." if one["target"] else ""
        lines += [f"## `{one['benchmark']}.py`, {one['backend']}", "", f"Against {one['peer']}.{target} {one['seconds']:.0f} s.", ""]
        lines += [one["printed"].strip(), "", *(["**It failed.**", ""] if one["failed"] else [])]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--quick", action="store_true", help="as little as shows that all of them run")
    parser.add_argument("--out", type=Path, default=FOLDER / "results", metavar="FOLDER", help="where speed.md and speed.json are written")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    about, runs = facts(), []
    for name in args.only:
        for backend in args.backends:
            if backend in BENCHMARKS[name].backends:
                print(f"{name}, {backend}", flush=True)
                runs.append(run(name, backend, args.quick))
                print(runs[-1]["printed"], flush=True)
                # After each, for what is broken off.
                (args.out / "speed.json").write_text(json.dumps({**about, "runs": runs}, indent=1) + "\n", encoding="utf-8")
                (args.out / "speed.md").write_text(markdown(about, runs), encoding="utf-8")
    failed = [f"{one['benchmark']} ({one['backend']})" for one in runs if one["failed"] or not (one["tables"] or one["printed"])]
    print(f"Written to {args.out / 'speed.md'} and {args.out / 'speed.json'}.")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
