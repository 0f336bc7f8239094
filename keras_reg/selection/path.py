"""Fits along a grid of strengths, on one set of examples or in folds."""

import functools
import inspect
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_reg._validation import boolean, greater_than, items, one_of, received, whole_number
from keras_reg.contract import is_penalty
from keras_reg.models.fingerprint import fingerprint
from keras_reg.models.shrinking.splitting import place_of_split
from keras_reg.selection.data import Data, validation_of
from keras_reg.selection.executors import check_executor, run_all
from keras_reg.selection.folder import Folder, Point
from keras_reg.selection.folds import folds_of
from keras_reg.selection.packing import code_of, pack
from keras_reg.selection.progress import progress
from keras_reg.selection.result import RegularizationPath
from keras_reg.selection.strength_max import strength_max
from keras_reg.selection.strengths import Strengths, check_model
from keras_reg.selection.training import Job, train
from keras_reg.weights import layers_of, own_variables

ALL = "all"
ROUNDING = 1e-5
DIRECTIONS = ("auto", "sparse_to_dense", "dense_to_sparse")


def regularization_path(
    model: Any,
    x: Any,
    y: Any = None,
    strengths: int | Sequence[float] = 20,
    *,
    validation_data: Any = None,
    cv: Any = None,
    monitor: str = "loss",
    mode: str = "auto",
    direction: str = "auto",
    warm_start: bool = True,
    patience: int | None = None,
    eps: float = 1e-3,
    folder: Any = None,
    executor: Any = None,
    seed: int | None = None,
    verbose: int = 1,
    **fit_arguments: Any,
) -> RegularizationPath:
    """Trains the model at one strength of its penalties after the other, and says what each is worth on data not trained on.

    One number moves all penalties: the strength of the strongest, to which the others keep their ratios. All fits are those of
    one copy of the model, which is compiled once. Each begins with the optimizer as it was given, so that learning-rate schedules run anew,
    and with the weights of the fit before. Scores are those of the compiled metrics and of the loss without penalties.

    Args:
        model: A built and compiled Keras model with penalties of keras_reg, with `Proximal` where zeros are to be exact. It stays as it is.
        x, y: As `fit` takes them: arrays in any nesting, or a dataset. Folds and executors need arrays.
        strengths: Positive numbers, or how many: from `strength_max` down to `eps` times that, at equal ratios.
        validation_data: As `fit` takes it. `validation_split` is taken as well.
        cv: Folds, in place of `validation_data`: a splitter of scikit-learn, such as `KFold(5, shuffle=True)`, what its `split` gives, or a
            number of shuffled folds, stratified by integer labels.
        monitor: The metric by which strengths are chosen. Defaults to `"loss"`, that of the data.
        mode: `"min"`, `"max"`, or `"auto"`: by the name of the metric.
        direction: `"sparse_to_dense"`, falling strengths, `"dense_to_sparse"`, or `"auto"`: the first for a model of one layer, the second
            elsewhere, where units that are zero do not come back.
        warm_start: Whether each fit begins where the one before has ended, or else with the weights given.
        patience: Epochs without a lower `val_loss` (`loss` without validation data) after which the fit at one strength ends.
            Defaults to `None`: all epochs are run.
        eps: The ratio of the smallest strength to the largest, where `strengths` is a number of them.
        folder: Where every fit is kept as soon as it is done, with its weights. Called again with the same arguments, as after a kill,
            fits that are there are read and not computed.
        executor: A `concurrent.futures.Executor`: of processes, which must not be forked (`ProcessPoolExecutor(2, mp_context=
            multiprocessing.get_context("spawn"))`), or on other machines, such as `dask.distributed.Client(…).get_executor()`. Folds are
            trained there at the same time, without warm starts every single fit. What is lost with a worker is done again.
        seed: Given to `keras.utils.set_random_seed` before each fit, with the place of the strength added: then fits that are interrupted
            or run elsewhere come out the same.
        verbose: 0, 1 for a progress bar, or 2 for Keras's line for each epoch.
        **fit_arguments: For `model.fit`: `epochs`, `batch_size`, `callbacks`, `sample_weight`, `class_weight` and the rest.

    Returns:
        A `RegularizationPath`: `print` shows a table; `best()`, `best(one_se=True)`, `model()`, `refit(x, y)`, `plot()`, `coefficients`.

    Raises:
        ValueError, TypeError: before any training, where arguments do not fit each other or the model.

    Example:

    >>> import keras, numpy as np
    >>> from keras_reg.optimizers import Proximal
    >>> from keras_reg.regularizers import L1
    >>> from keras_reg.selection import regularization_path
    >>> x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
    >>> y = x[:, :1] - x[:, 1:2]
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1, kernel_regularizer=L1(0.1, proximal=True))])
    >>> model.compile(Proximal(keras.optimizers.SGD(0.1)), "mse")
    >>> path = regularization_path(model, x, y, strengths=[1.0, 0.1], validation_split=0.25, epochs=30, verbose=0)
    >>> path.best().strength
    0.1

    Reference: [Friedman, Hastie and Tibshirani, 2010](https://doi.org/10.18637/jss.v033.i01).
    """
    check_model(model)
    own = Strengths(model)
    if isinstance(strengths, numbers.Integral):
        whole_number(strengths, "strengths", at_least=1)
    else:
        strengths = _checked_grid(strengths)
    eps = greater_than(eps, 0, "eps")
    one_of(direction, DIRECTIONS, "direction")
    if not isinstance(monitor, str):
        raise TypeError(f"Argument `monitor` must be the name of a metric. {received(monitor, 'monitor')}")
    one_of(mode, ("auto", "min", "max"), "mode")
    boolean(warm_start, "warm_start")
    whole_number(patience, "patience", at_least=1, or_none=True)
    whole_number(seed, "seed", at_least=0, or_none=True)
    check_fit_arguments(model, fit_arguments, "regularization_path")
    data = Data.of(x, y, fit_arguments.pop("sample_weight", None), fit_arguments.pop("class_weight", None))
    data.check_targets(model)
    split = fit_arguments.pop("validation_split", None)
    if sum(given is not None for given in (validation_data, cv, split or None)) > 1:
        raise ValueError("Arguments `validation_data`, `cv` and `validation_split` exclude each other. Received: more than one of them")
    if split:
        data, validation = _last_part(data, split)
    else:
        validation = validation_of(validation_data)
    if validation is not None:
        validation.check_targets(model)
    if (cv is not None or executor is not None) and not (data.cuttable and (validation is None or validation.cuttable)):
        raise ValueError(f"Arguments `cv` and `executor` need arrays: datasets cannot be cut or sent. {received(x, 'x')}")
    if executor is not None:
        check_executor(executor)
    sets = {ALL: (data, validation)} | folds_of(cv, data)
    falling = direction == "sparse_to_dense" or (direction == "auto" and _has_one_layer(model))
    about = {
        "monitor": monitor,
        "falling": falling,
        "warm_start": warm_start,
        "sets": {name: len(part) if part.cuttable else None for name, (part, _) in sets.items()},
        "data": None if folder is None else fingerprint(*(vars(part) for part in (data, validation) if part is not None)),
        "weights": [[list(w.shape), _in_words(w.regularizer)] for w in model.weights],
        "epochs": fit_arguments.get("epochs", 1),
        "seed": seed,
        "asked": strengths,
    }
    packed, code = pack(model), code_of(model)
    kept = Folder(folder)
    about = kept.begin(about, lambda: sorted(_grid(strengths, model, data, eps, fit_arguments.get("batch_size")), reverse=falling))
    numbered = list(enumerate(about["strengths"]))
    common = {
        "model": packed,
        "fit": fit_arguments,
        "monitor": monitor,
        "warm_start": warm_start,
        "patience": patience,
        "seed": seed,
        "verbose": 2 if verbose == 2 else 0,
        "folder": kept,
        "backend": keras.backend.backend(),
        "code": code if executor is None else {},
    }
    chains = [numbered] if warm_start or executor is None else [[one] for one in numbered]
    jobs = [Job(name, strengths=chain, data=part, validation=held, **common) for name, (part, held) in sets.items() for chain in chains]
    points = _run(jobs, executor, verbose == 1)
    places = [place for place, weight in enumerate(model.weights) if weight.path in own.variables]
    path = RegularizationPath(points.pop(ALL), list(points.values()), monitor, mode, packed, code, places)
    kept.write_table(path.rows())
    return path


def _run(jobs: list[Job], executor: Any, shown: bool) -> dict[str, list[Point]]:
    """The results for each set of examples, in the order of the grid."""
    points: dict[str, list[Point]] = {job.name: [] for job in jobs}
    with progress(sum(len(job.strengths) for job in jobs), shown, "fits") as tell:

        def said(job: Job, point: Point) -> None:
            score = "".join(f", {name} {value:.4g}" for name, value in list(point.scores.items())[:2])
            tell(f"{job.name}, strength {point.strength:.3g}: {point.nonzero:,} non-zero{score}")

        def done(job: Job, results: list[Point]) -> None:
            for point in results:
                job.folder.write(job.name, point)  # where the worker could not
                said(job, point)

        if executor is None:
            for job in jobs:
                points[job.name] += train(job, functools.partial(said, job))
        else:
            for job, results in zip(jobs, run_all(executor, train, jobs, done), strict=True):
                points[job.name] += results
    return points


def _grid(strengths: Any, model: Any, data: Data, eps: float, batch_size: int | None) -> list[float]:
    if not isinstance(strengths, numbers.Integral):
        return _checked_grid(strengths)
    largest = float(strength_max(model, data.x, data.y, data.sample_weight, data.class_weight, batch_size and max(batch_size, 1024)))
    if largest == 0:
        raise ValueError(
            "No strength is too large: the gradient of the loss by every penalised weight is 0. Give `strengths` as numbers. "
            f"Received: strengths={strengths}"
        )
    largest *= 1 + ROUNDING  # at the very largest, rounding leaves single weights
    return [float(strength) for strength in np.geomspace(largest, eps * largest, strengths)]


def _checked_grid(strengths: Any) -> list[float]:
    grid = [greater_than(strength, 0, "strengths") for strength in items(strengths, "strengths")]
    if not grid or len(set(grid)) < len(grid):
        raise ValueError(f"Argument `strengths` must hold different positive numbers. {received(strengths, 'strengths')}")
    return grid


def check_fit_arguments(model: Any, arguments: dict[str, Any], function: str) -> None:
    """Refuse what `fit` does not take."""
    known = set(inspect.signature(model.fit).parameters)
    for name in arguments:
        if name not in known:
            raise TypeError(f"Argument `{name}` is none of `{function}` and none of `fit`. {received(arguments[name], name)}")
    whole_number(arguments.get("epochs", 1), "epochs", at_least=1)


def _last_part(data: Data, split: Any) -> tuple[Data, Data]:
    """As `fit` cuts validation data off."""
    if not data.cuttable:
        raise ValueError(f"Argument `validation_split` needs `x` and `y` as arrays. {received(data.x, 'x')}")
    number = place_of_split(len(data), split)
    return data.cut(slice(None, number)), data.cut(slice(number, None))


def _has_one_layer(model: Any) -> bool:
    return sum(any(v.trainable for v in own_variables(layer)) for layer in layers_of(model)) == 1


def _in_words(regularizer: Any) -> str | None:
    """The same in every process."""
    if regularizer is None or is_penalty(regularizer):
        return regularizer and repr(regularizer)
    return f"{type(regularizer).__name__} {regularizer.get_config()}"
