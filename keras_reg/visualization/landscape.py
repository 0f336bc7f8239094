"""Why some penalties give zeros: two parameters, the ellipses of the data loss, and the diamond or the circle of the penalty."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_reg.regularizers import L1, L2, Penalty
from keras_reg.visualization.style import COLOURS, given_axes, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID = 61
DEFAULT_HESSIAN = ((2.0, 0.6), (0.6, 1.0))


def landscape(
    penalties: Sequence[Penalty] | Penalty | None = None,
    optimum: Any = (0.9, 0.25),
    hessian: Any = DEFAULT_HESSIAN,
    ax: Any = None,
) -> "Figure":
    """A quadratic data loss of two parameters and the minimum that each penalty moves it to.

    The data loss is `(w - optimum) @ hessian @ (w - optimum) / 2`. A penalty sees its weights as a kernel `(2, 1)`: two inputs, one unit.

    Args:
        penalties: Penalties that have a prox, or one, a panel each. Defaults to `L1(0.5)`, the diamond, and `L2(0.5)`, the circle.
        optimum: The two weights that the data alone would choose.
        hessian: The curvature of the data loss: a symmetric, positive definite 2×2 matrix.
        ax: Matplotlib axes to draw on, one for each penalty, in place of a figure of its own.

    Returns:
        A Matplotlib figure: ellipses of equal data loss, the set of weights whose penalty is at most that of the penalised
        minimum, and the path of that minimum as the strength grows from 0.

    Example:

    >>> from keras_reg.visualization import landscape
    >>> [axes.get_title().splitlines()[1] for axes in landscape().axes]
    ['minimum at (0.72, 0)', 'minimum at (0.61, 0.21)']
    """
    penalties = [L1(0.5), L2(0.5)] if penalties is None else [penalties] if isinstance(penalties, Penalty) else list(penalties)
    if not penalties:
        raise ValueError("Argument `penalties` must hold at least one penalty. Received: penalties=[]")
    for penalty in penalties:
        if not isinstance(penalty, Penalty):
            raise TypeError(f"Argument `penalties` must hold penalties of keras_reg. Received: {penalty!r}")
    optimum, hessian = np.asarray(optimum, "float64"), np.asarray(hessian, "float64")
    if optimum.shape != (2,) or not np.all(np.isfinite(optimum)):
        raise ValueError(f"Argument `optimum` must hold two finite numbers. Received: optimum={optimum}")
    if (
        hessian.shape != (2, 2)
        or not np.all(np.isfinite(hessian))
        or not np.allclose(hessian, hessian.T)
        or np.min(np.linalg.eigvalsh(hessian)) <= 0
    ):
        raise ValueError(f"Argument `hessian` must be a symmetric, positive definite 2×2 matrix. Received: hessian={hessian.tolist()}")
    reach = 1.35 * float(np.max(np.abs(optimum))) or 1.0
    ticks = np.linspace(-reach, reach, GRID)
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    shift = points - optimum
    loss = np.einsum("...i,ij,...j", shift, hessian, shift) / 2
    if ax is None:
        figure = new_figure(4.6 * len(penalties), 4.8 if len(penalties) > 1 else 5.4)
        panels = list(figure.subplots(1, len(penalties), squeeze=False).flat)
    else:
        panels = given_axes(ax, len(penalties))
    for panel, penalty in zip(panels, penalties, strict=True):
        found = minimum(penalty, optimum, hessian)
        values = np.array([_value(penalty, point) for point in points.reshape(-1, 2)]).reshape(GRID, GRID)
        at = _value(penalty, found)
        panel.contour(ticks, ticks, loss, levels=_levels(loss, optimum, hessian, found), colors=COLOURS[1], linewidths=1.0)
        panel.contourf(ticks, ticks, values, levels=[values.min() - 1, at + 1e-9 + 1e-6 * abs(at)], colors=[COLOURS[5]], alpha=0.45)
        path = np.array([minimum(penalty.with_strength(share * penalty.strength), optimum, hessian) for share in np.linspace(0, 1, 11)])
        panel.plot(*path.T, color="black", linewidth=1.2, linestyle=":", label="minimum as the strength grows")
        panel.plot(*optimum, marker="x", color="black", linestyle="none", label="minimum of the data loss")
        panel.plot(*found, marker="o", color=COLOURS[2], linestyle="none", label="minimum with the penalty")
        panel.axhline(0, color="black", linewidth=0.6)
        panel.axvline(0, color="black", linewidth=0.6)
        panel.set_aspect("equal")
        panel.set_xlabel("first weight (no unit)")
        panel.set_ylabel("second weight (no unit)")
        panel.set_title(f"{penalty!r}\nminimum at ({found[0]:.2g}, {found[1]:.2g})", fontsize="medium")
    if ax is None:
        figure.legend(
            *panel.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, 2 * len(penalties) - 1), fontsize="small"
        )
    else:
        legend_below(panel)
    return panel.figure


def minimum(penalty: Penalty, optimum: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """The best end of proximal gradient steps from zero, from the optimum and from its two coordinates alone."""
    step = 1 / float(np.linalg.eigvalsh(hessian)[-1])
    best, least = None, np.inf
    for start in (optimum, np.zeros(2), optimum * (1, 0), optimum * (0, 1)):
        w = start
        for _ in range(200):
            moved = (w - step * hessian @ (w - optimum)).astype("float32")[:, None]
            new = np.asarray(ops.convert_to_numpy(penalty.prox(moved, step)), "float64")[:, 0]
            if np.max(np.abs(new - w)) < 1e-6:
                break
            w = new
        total = (w - optimum) @ hessian @ (w - optimum) / 2 + _value(penalty, w)
        if total < least - 1e-9:
            best, least = w, total
    return best


def _value(penalty: Penalty, w: np.ndarray) -> float:
    return float(ops.convert_to_numpy(penalty.value(ops.convert_to_tensor(w.astype("float32")[:, None]))))


def _levels(loss: np.ndarray, optimum: np.ndarray, hessian: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Five ellipses; one of them touches the set of the penalty at the minimum."""
    touching = (found - optimum) @ hessian @ (found - optimum) / 2
    touching = touching if touching > 1e-6 else float(np.median(loss))
    return touching * np.array([0.25, 1.0, 2.5, 5.0, 9.0])
