"""What came out along a grid of strengths."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_reg._validation import one_of
from keras_reg.models.attachment.attach import detach
from keras_reg.models.table import html_table, text_table
from keras_reg.optimizers import Proximal
from keras_reg.selection import pictures
from keras_reg.selection.folder import Point
from keras_reg.selection.packing import unpack
from keras_reg.selection.strengths import Strengths, inner_optimizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RISING = ("acc", "auc", "precision", "recall", "f1", "fbeta", "f_beta", "iou", "r2", "sensitivity", "specificity", "similarity")


class RegularizationPath(Sequence):
    """The fits of `regularization_path`, in the order in which they were made: `print` it, index it, or take `rows()`.

    Attributes:
        points: One for each strength: `strength`, `nonzero` weights and `groups` of those with penalties, `scores` by the names of metrics
            (`"loss"`: that of the data) with their standard `errors`, `epochs` and `seconds`.
        monitor: The metric by which `best` chooses.
    """

    def __init__(
        self, points: list[Point], folds: list[list[Point]], monitor: str, mode: str, packed: bytes, code: dict[str, Any], places: list[int]
    ):
        self.points = [_with_scores_of(point, [fold[number] for fold in folds]) for number, point in enumerate(points)] if folds else points
        self.monitor = monitor
        self.rises = mode == "max" or (mode == "auto" and any(name in monitor.lower() for name in RISING))
        self._packed, self._code, self._places = packed, code, places
        if self.points[0].scores and monitor not in self.points[0].scores:  # of a dataset no batch was looked at before
            raise ValueError(f"Argument `monitor` must be one of {sorted(self.points[0].scores)}. Received: monitor={monitor!r}")

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Any) -> Any:
        return self.points[index]

    def best(self, one_se: bool = False) -> Point:
        """The fit with the best score.

        Args:
            one_se: Whether to take, in its place, that of the largest strength whose score is no more than one standard error of the
                best one worse: the sparsest of those that the data cannot tell from the best. The error is that of the mean over the folds;
                without folds over batches of the validation data, for metrics that are means over examples.

        Raises:
            ValueError: without validation data or folds.
        """
        scores = np.array([point.scores.get(self.monitor, np.nan) for point in self.points])
        if np.isnan(scores).all():
            raise ValueError("There is no score to choose by: give `regularization_path` `validation_data`, `validation_split` or `cv`.")
        losses = -scores if self.rises else scores
        best = self.points[int(np.nanargmin(losses))]
        if not one_se:
            return best
        if self.monitor not in best.errors:
            raise ValueError(
                f"The standard error of {self.monitor!r} is not known: give `regularization_path` `cv`, or more validation data."
            )
        near = [p for p, loss in zip(self.points, losses, strict=True) if loss <= np.nanmin(losses) + best.errors[self.monitor]]
        return max(near, key=lambda point: point.strength)

    def at(self, strength: float | None = None) -> Point:
        """The fit at the strength that is nearest; at that of `best` for `None`."""
        if strength is None:
            return self.best()
        return min(self.points, key=lambda point: abs(point.strength - strength))

    def model(self, strength: float | None = None) -> Any:
        """The model as it was trained at a strength (by default that of `best`), with its penalties at that strength, compiled."""
        point, model = self.at(strength), unpack(self._packed, self._code)
        model.set_weights(point.weights)
        strengths = Strengths(model)
        strengths.prepare()
        strengths.set(point.strength)
        return model

    def refit(self, x: Any, y: Any = None, strength: float | None = None, **fit_arguments: Any) -> Any:
        """Train on without penalties while all zeros stay zero, which takes the shrinkage out of what is left.

        Args:
            x, y: As `fit` takes them.
            strength: From which fit. Defaults to that of `best`.
            **fit_arguments: For `model.fit`.

        Returns:
            A model, compiled with `Proximal(optimizer, keep_zeros=True)` and with the loss and metrics that the model had.
        """
        model = self.model(strength)
        compiled, inner = model._compile_config.config, inner_optimizer(model.optimizer)
        detach(model, include=list(Strengths(model).variables.values()))
        model.compile(**{**compiled, "optimizer": Proximal(type(inner).from_config(inner.get_config()), keep_zeros=True)})
        model.fit(x, y, **fit_arguments)
        return model

    @property
    def coefficients(self) -> np.ndarray:
        """The penalised weight at every strength, `(strengths, *shape)`, of a model that has one."""
        if len(self._places) != 1:
            raise ValueError(f"There are coefficients of a model with one penalised weight. Received: a model with {len(self._places)}")
        return np.stack([point.weights[self._places[0]] for point in self.points])

    def rows(self) -> list[dict[str, Any]]:
        """Plain Python values, a dict for each strength."""
        rows = []
        for point in self.points:
            row = {"strength": point.strength, "epochs": point.epochs, "seconds": point.seconds}
            row |= {
                "weights": point.weights_in_all,
                "nonzero": point.nonzero,
                "groups": point.groups,
                "nonzero_groups": point.nonzero_groups,
            }
            row |= {"objective": point.objective, **point.scores}
            row |= {f"{name} ±": error for name, error in point.errors.items()}
            rows.append(row)
        return rows

    def plot(self, against: str = "strength", ax: Any = None) -> "Figure":
        """A picture of the scores against `"strength"` or `"nonzero"` weights, with standard errors and both choices of `best`."""
        one_of(against, ("strength", "nonzero"), "against")
        chosen = {"best": self.best()}
        if self.monitor in chosen["best"].errors:
            chosen["one standard error"] = self.best(one_se=True)
        return pictures.scores(self.points, self.monitor, against, chosen, ax)

    def plot_coefficients(self, ax: Any = None) -> "Figure":
        """A picture of each coefficient against the strength, of a model with one penalised weight."""
        return pictures.coefficients([point.strength for point in self.points], self.coefficients, ax)

    def _columns(self) -> dict[str, list[str]]:
        def shown(point: Point, name: str) -> str:
            error = f" ± {point.errors[name]:.2g}" if name in point.errors else ""
            return f"{point.scores[name]:.4g}{error}"

        columns = {
            "strength": [f"{point.strength:.3g}" for point in self.points],
            "non-zero": [f"{point.nonzero:,} of {point.weights_in_all:,}" for point in self.points],
            "groups": [f"{point.nonzero_groups:,} of {point.groups:,}" if point.groups else "–" for point in self.points],
            "epochs": [str(point.epochs) for point in self.points],
            "seconds": [f"{point.seconds:.1f}" for point in self.points],
        }
        columns |= {name: [shown(point, name) for point in self.points] for name in self.points[0].scores}
        if self.points[0].scores:
            best = self.best()
            one_se = self.best(one_se=True) if self.monitor in best.errors else None
            columns[""] = [" ".join(["best"] * (p is best) + ["1se"] * (p is one_se)) for p in self.points]
        return columns

    def __str__(self) -> str:
        return text_table(self._columns(), left=("",))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self._columns())


def _with_scores_of(point: Point, folds: list[Point]) -> Point:
    """The fit on all examples, with the scores of those in folds."""
    values = {name: [fold.scores[name] for fold in folds] for name in folds[0].scores}
    point.scores = {name: float(np.mean(own)) for name, own in values.items()}
    point.errors = {name: float(np.std(own, ddof=1) / np.sqrt(len(own))) for name, own in values.items()}
    return point
