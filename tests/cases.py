"""The table of penalties that every law runs on, each with an independent NumPy formula of its value."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_reg import regularizers as R


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], R.Penalty]
    formula: Callable[[np.ndarray], float]

    def __str__(self):
        return self.name


def mcp(u, strength, gamma):
    return np.where(u <= gamma * strength, strength * u - u**2 / (2 * gamma), gamma * strength**2 / 2)


def scad(u, strength, a):
    middle = (2 * a * strength * u - u**2 - strength**2) / (2 * (a - 1))
    return np.where(u <= strength, strength * u, np.where(u <= a * strength, middle, strength**2 * (a + 1) / 2))


def norms(w, *axes):
    """Euclidean norms of the groups that `axes` index, by a loop over the groups."""
    moved = np.moveaxis(w, axes, range(len(axes)))
    return np.array([np.linalg.norm(moved[index]) for index in np.ndindex(moved.shape[: len(axes)])])


def hoyer(u):
    return u.sum() ** 2 / (u**2).sum() if u.any() else 0.0


def expected_open(log_alpha, beta=2 / 3, gamma=-0.1, zeta=1.1):
    return (1 / (1 + (-gamma / zeta) ** beta * np.exp(-log_alpha))).sum()


def group_size(w, *axes):
    return w.size / np.prod([w.shape[a] for a in axes])


def per_weight(phi):
    return lambda w: phi(np.abs(w)).sum()


CASES = (
    Case("L1", lambda: R.L1(0.3), per_weight(lambda u: 0.3 * u)),
    Case("L2", lambda: R.L2(0.2), per_weight(lambda u: 0.2 * u**2)),
    Case("L1L2", lambda: R.L1L2(l1=0.3, l2=0.2), per_weight(lambda u: 0.3 * u + 0.2 * u**2)),
    Case("L0-laplace", lambda: R.L0(0.3), per_weight(lambda u: 0.3 * (1 - np.exp(-u / 0.1)))),
    Case("L0-laplace-wide", lambda: R.L0(0.3, width=1.5), per_weight(lambda u: 0.3 * (1 - np.exp(-u / 1.5)))),
    Case("L0-log", lambda: R.L0(0.3, relaxation="log", width=0.5), per_weight(lambda u: 0.3 * np.log(1 + u / 0.5))),
    Case("L0-geman", lambda: R.L0(0.3, relaxation="geman_mcclure"), per_weight(lambda u: 0.3 * u**2 / (u**2 + 0.1**2))),
    Case("L0-hard", lambda: R.L0(0.3, relaxation="hard", proximal=True), per_weight(lambda u: 0.3 * (u > 0))),
    Case("MCP", lambda: R.MCP(0.3), per_weight(lambda u: mcp(u, 0.3, 3.0))),
    Case("MCP-sharp", lambda: R.MCP(0.5, gamma=0.8), per_weight(lambda u: mcp(u, 0.5, 0.8))),
    Case("SCAD", lambda: R.SCAD(0.3), per_weight(lambda u: scad(u, 0.3, 3.7))),
    Case("SCAD-sharp", lambda: R.SCAD(0.5, a=2.2), per_weight(lambda u: scad(u, 0.5, 2.2))),
    Case("Lq-half", lambda: R.Lq(0.3), per_weight(lambda u: 0.3 * np.sqrt(u))),
    Case("Lq-two-thirds", lambda: R.Lq(0.3, q=2 / 3), per_weight(lambda u: 0.3 * u ** (2 / 3))),
    Case("HoyerSquare", lambda: R.HoyerSquare(0.3), lambda w: 0.3 * hoyer(np.abs(w))),
    Case("GroupLasso", lambda: R.GroupLasso(0.3), lambda w: 0.3 * group_size(w, -1) ** 0.5 * norms(w, -1).sum()),
    Case("GroupLasso-inputs", lambda: R.GroupLasso(0.3, axis=-2), lambda w: 0.3 * group_size(w, -2) ** 0.5 * norms(w, -2).sum()),
    Case("GroupLasso-plain", lambda: R.GroupLasso(0.3, size_weights=False), lambda w: 0.3 * norms(w, -1).sum()),
    Case(
        "GroupLasso-two-axes",
        lambda: R.GroupLasso(0.3, axis=(-2, -1)),
        lambda w: 0.3 * group_size(w, -2, -1) ** 0.5 * norms(w, -2, -1).sum(),
    ),
    Case(
        "SparseGroupLasso",
        lambda: R.SparseGroupLasso(l1=0.1, group=0.2),
        lambda w: 0.1 * np.abs(w).sum() + 0.2 * group_size(w, -1) ** 0.5 * norms(w, -1).sum(),
    ),
    Case(
        "SparseGroupLasso-plain",
        lambda: R.SparseGroupLasso(l1=0.1, group=0.2, axis=0, size_weights=False),
        lambda w: 0.1 * np.abs(w).sum() + 0.2 * norms(w, 0).sum(),
    ),
    Case("Grouped-L1", lambda: R.Grouped(R.L1(0.3), axis=-2), lambda w: 0.3 * group_size(w, -2) ** 0.5 * norms(w, -2).sum()),
    # The group MCP of the literature: strength times the root of the group's size, the same gamma.
    Case("Grouped-MCP", lambda: R.Grouped(R.MCP(0.3)), lambda w: mcp(norms(w, -1), 0.3 * group_size(w, -1) ** 0.5, 3.0).sum()),
    Case("Grouped-SCAD", lambda: R.Grouped(R.SCAD(0.3)), lambda w: scad(norms(w, -1), 0.3 * group_size(w, -1) ** 0.5, 3.7).sum()),
    Case("Grouped-MCP-plain", lambda: R.Grouped(R.MCP(0.3), size_weights=False), lambda w: mcp(norms(w, -1), 0.3, 3.0).sum()),
    Case("Grouped-L2", lambda: R.Grouped(R.L2(0.3)), lambda w: 0.3 * (w**2).sum()),
    Case(
        "Grouped-L0-hard",
        lambda: R.Grouped(R.L0(0.3, relaxation="hard", proximal=True), axis=0),
        lambda w: 0.3 * group_size(w, 0) * (norms(w, 0) > 0).sum(),
    ),
    Case(
        "StructuralGroupLasso",
        lambda: R.StructuralGroupLasso(0.3, structure="one weight alone", axis=-1, weights=2.0, proximal=False),
        lambda w: 0.6 * norms(w, -1).sum(),
    ),
    Case("L0Constraint", lambda: R.L0Constraint(0.4), lambda w: 0.0),
    Case("L0Constraint-groups", lambda: R.L0Constraint(0.4, axis=-1, scope="model"), lambda w: 0.0),
    Case("L0Constraint-blocks", lambda: R.L0Constraint(0.4, block_size=(1, 1), every=3, regrow=False), lambda w: 0.0),
    Case("StructuralL0Constraint", lambda: R.StructuralL0Constraint(0.4, structure="one weight alone"), lambda w: 0.0),
    Case("L1+L2", lambda: R.L1(0.3) + R.L2(0.2), per_weight(lambda u: 0.3 * u + 0.2 * u**2)),
    Case("MCP+L2", lambda: R.MCP(0.3) + R.L2(0.2), per_weight(lambda u: mcp(u, 0.3, 3.0) + 0.2 * u**2)),
    Case(
        "L1+GroupLasso+L2",
        lambda: R.Sum([R.L1(0.1), R.GroupLasso(0.2, axis=0), R.L2(0.2)]),
        lambda w: 0.1 * np.abs(w).sum() + 0.2 * group_size(w, 0) ** 0.5 * norms(w, 0).sum() + 0.2 * (w**2).sum(),
    ),
    Case("HardConcreteL0", lambda: R.HardConcreteL0(0.3), lambda w: 0.3 * expected_open(w)),
    Case(
        "HardConcreteL0-stretched",
        lambda: R.HardConcreteL0(0.3, weights=2.0, beta=0.5, gamma=-0.2, zeta=1.3),
        lambda w: 0.6 * expected_open(w, 0.5, -0.2, 1.3),
    ),
    Case(
        "GaussianGatePenalty",
        lambda: R.GaussianGatePenalty(0.3),
        lambda w: 0.15 * sum(np.log1p(m**2 / np.exp(v)).sum() for m, v in [np.split(w, 2)]),
    ),
    Case("GroupHoyerSquare", lambda: R.GroupHoyerSquare(0.3), lambda w: 0.3 * hoyer(norms(w, -1))),
)

IDS = [case.name for case in CASES]
