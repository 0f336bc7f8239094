"""The input features that a model can do with."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_reg._validation import greater_than, received, whole_number
from keras_reg.contract import is_proximal
from keras_reg.models.attachment.attach import attach
from keras_reg.models.fingerprint import fingerprint
from keras_reg.optimizers import Proximal
from keras_reg.regularizers import Grouped, GroupLasso, Lq
from keras_reg.running import proximal_optimizers
from keras_reg.selection import pictures
from keras_reg.selection.data import Data, validation_of
from keras_reg.selection.folder import Folder, Point
from keras_reg.selection.packing import code_of, pack, unpack
from keras_reg.selection.path import check_fit_arguments
from keras_reg.selection.progress import progress
from keras_reg.selection.strength_max import strength_max
from keras_reg.selection.strengths import Strengths, check_model, inner_optimizer
from keras_reg.selection.training import Job, train
from keras_reg.weights import layers_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FARTHEST = 1e9  # times the first strength


@dataclass(frozen=True)
class SelectedFeatures:
    """What `select_features` chose.

    Attributes:
        indices: The chosen features, in the order of the input, flattened where it is an image.
        names: Their names, where the input has names of columns.
        mask: Whether each input is chosen, in the shape of an example.
        order: For each input how many strengths it has outlived.
        points: The fits, as in `RegularizationPath`; of the last two alone the weights are kept.
    """

    indices: np.ndarray
    names: list[str] | None
    mask: np.ndarray
    order: np.ndarray
    points: list[Point]

    def plot(self, shape: tuple[int, int] | None = None, ax: Any = None) -> "Figure":
        """A picture of the chosen features of images, over the order in which the others have left.

        Args:
            shape: Rows and columns. Defaults to the shape of an example.
            ax: Matplotlib axes to draw on.
        """
        shape = tuple(size for size in self.mask.shape if size > 1) if shape is None else tuple(shape)
        if len(shape) != 2 or math.prod(shape) != self.mask.size:
            raise ValueError(f"Argument `shape` must be the rows and columns of {self.mask.size} features. Received: shape={shape}")
        return pictures.features(self.mask.reshape(shape), self.order.reshape(shape), ax)


def select_features(
    model: Any,
    x: Any,
    y: Any,
    k: int,
    *,
    validation_data: Any = None,
    start: float | None = None,
    ratio: float = 1.05,
    folder: Any = None,
    seed: int | None = None,
    verbose: int = 1,
    **fit_arguments: Any,
) -> SelectedFeatures:
    """The `k` input features that stay longest as a group penalty on the layer that reads them grows stronger.

    A group is what the first dense layer reads from one feature. The model is trained without much of a penalty and then, from there on, at
    one strength after the other, each `ratio` times the one before, until no more than `k` features are left. Where the last step
    took too many, those of them that had the largest norms before it come back.

    Args:
        model: A built and compiled Keras model, whose first dense layer reads the features themselves (through `Flatten`, `Normalization`,
            `Dropout` and their like). Where this layer has no penalty it gets one, and the optimizer goes into a `Proximal`: with SGD
            `Grouped(Lq(q=0.5), axis=-2)`, which leaves what stays as large as it was, elsewhere `GroupLasso(axis=-2)`. On MNIST the former
            chose by far the better pixels. The model stays as it is.
        x: Inputs: an array, or a data frame, whose columns are names. Features on different scales are to be scaled first.
        y: Targets.
        k: How many features are to be left.
        validation_data: As `fit` takes it, for the scores of the points.
        start: The first strength. Defaults to a thousandth of `strength_max`.
        ratio: By which strengths grow. The nearer to 1, the better the choice, and the longer it takes.
        folder, seed, verbose: As in `regularization_path`.
        **fit_arguments: For `model.fit` at each strength: `epochs`, `batch_size`, `callbacks` and the rest.

    Returns:
        `indices`, `names`, `mask`, `order`, `points` and `plot()`.

    Raises:
        ValueError: where `k` is no number of features, or no layer reads them.

    Example:

    >>> import keras, numpy as np
    >>> from keras_reg.selection import select_features
    >>> x = np.random.default_rng(0).normal(size=(64, 10)).astype("float32")
    >>> y = x[:, :1] - x[:, 3:4]
    >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.Adam(0.01), "mse")
    >>> select_features(model, x, y, k=2, ratio=1.5, epochs=10, batch_size=16, seed=0, verbose=0).indices.tolist()
    [0, 3]

    Reference: [Lemhadri, Ruan, Abraham and Tibshirani, 2021](https://arxiv.org/abs/1907.12207), whose protocol
    `benchmarks/feature_selection.py` follows.
    """
    check_model(model)
    names = [str(name) for name in x.columns] if hasattr(x, "columns") else None
    check_fit_arguments(model, fit_arguments, "select_features")
    data = Data.of(x, y, fit_arguments.pop("sample_weight", None), fit_arguments.pop("class_weight", None))
    if not isinstance(data.x, np.ndarray):
        raise TypeError(f"Argument `x` must be one array or data frame. {received(x, 'x')}")
    data.check_targets(model)
    shape = data.x.shape[1:]
    if not 1 <= whole_number(k, "k", at_least=1) < math.prod(shape):
        raise ValueError(f"Argument `k` must be less than the number of features, {math.prod(shape)}. Received: k={k}")
    ratio = greater_than(ratio, 1, "ratio")
    copy, place, given = _penalised_copy(model, math.prod(shape))
    weight = copy.weights[place]
    if start is None:
        # The penalties of other weights do not move.
        start = strength_max(copy, data.x, data.y, data.sample_weight, data.class_weight).weights[weight.path] / 1000
    start = greater_than(start, 0, "start")
    if not given and isinstance(inner_optimizer(copy.optimizer), keras.optimizers.SGD):  # one step for all weights of a group
        attach(copy, Grouped(Lq(1.0, q=0.5), axis=-2, proximal=True), include=[weight], replace=True)
    about = {"k": k, "start": start, "ratio": ratio, "seed": seed, "epochs": fit_arguments.get("epochs", 1)}
    about["penalty"] = repr(weight.regularizer.with_strength(1.0))
    about["data"] = None if folder is None else fingerprint(vars(data))
    kept = Folder(folder)
    steps = math.ceil(math.log(FARTHEST) / math.log(ratio)) + 1
    strengths = kept.begin(about, lambda: [start * ratio**step for step in range(steps)])["strengths"]
    job = Job(
        name="all",
        model=pack(copy),
        strengths=list(enumerate(strengths)),
        data=data,
        validation=validation_of(validation_data),
        fit=fit_arguments,
        monitor="loss",
        warm_start=True,
        patience=None,
        seed=seed,
        verbose=2 if verbose == 2 else 0,
        folder=kept,
        backend=keras.backend.backend(),
        code=code_of(model),
        only=place,
    )
    return _run_down_to(job, k, place, shape, names, verbose == 1)


def _run_down_to(job: Job, k: int, place: int, shape: tuple, names: list[str] | None, shown: bool) -> SelectedFeatures:
    number = math.prod(shape)
    norms, seen = [np.full(number, np.inf)], []
    with progress(number - k, shown, "features") as tell:

        def report(point: Point) -> bool:
            norms.append(np.linalg.norm(point.weights[place], axis=1))
            before, left = (int(np.count_nonzero(norm)) for norm in norms[-2:])
            tell(f"{left} left at strength {point.strength:.3g}", min(before, number) - max(left, k))
            seen.append(point)
            if len(seen) > 2:
                seen[-3].weights = []
            return left <= k

        points = train(job, report)
    left = int(np.count_nonzero(norms[-1]))
    if left < k and len(points) == 1:
        raise ValueError(f"Argument `start` is too high: {left} features were left at once. Received: start={points[0].strength:.3g}")
    if left > k:
        raise RuntimeError(f"{left} features are left at strength {points[-1].strength:.3g}: train for more `epochs`, or begin higher.")
    outlived = np.sum([norm > 0 for norm in norms[1:]], axis=0)
    # Among those that the last step took, by the norms before it.
    chosen = np.sort(np.lexsort((norms[-2], outlived))[number - k :])
    mask = np.zeros(number, bool)
    mask[chosen] = True
    return SelectedFeatures(
        indices=chosen,
        names=None if names is None else [names[index] for index in chosen],
        mask=mask.reshape(shape),
        order=outlived.reshape(shape),
        points=points,
    )


def _penalised_copy(model: Any, number: int) -> tuple[Any, int, bool]:
    """A copy under `Proximal`, with a penalty on the weight that reads the features; the place of that among its weights; and whether the
    penalty was there."""
    kernels = {id(layer.kernel) for layer in layers_of(model) if isinstance(layer, keras.layers.Dense)}
    kernel = next((weight for weight in model.trainable_weights if id(weight) in kernels), None)  # in order, also of models in models
    if kernel is None or kernel.shape[0] != number:
        found = "none" if kernel is None else f"{kernel.path!r} of shape {tuple(kernel.shape)}"
        raise ValueError(f"Argument `model` must read the {number} features of `x` by its first dense layer. Received: {found}")
    place = next(place for place, weight in enumerate(model.weights) if weight is kernel)
    copy = unpack(pack(model), code_of(model))
    weight = copy.weights[place]
    given = weight.regularizer is not None
    if not given:
        attach(copy, GroupLasso(1.0, axis=-2, proximal=True), include=[weight])
    elif not is_proximal(weight.regularizer):
        raise ValueError(
            f"Argument `model` must have no penalty on {kernel.path!r}, or a proximal one, such as GroupLasso(1e-3, axis=-2, "
            f"proximal=True). Received: {weight.regularizer!r}"
        )
    if not any(proximal_optimizers(copy.optimizer)):
        compiled, inner = copy._compile_config.config, inner_optimizer(copy.optimizer)
        copy.compile(**{**compiled, "optimizer": Proximal(type(inner).from_config(inner.get_config()))})
    Strengths(copy, place)  # refuses what cannot be moved
    return copy, place, given
