"""The variables to whose penalties an optimizer applies a prox, each with the present strength."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import backend, ops

from keras_reg.ops.dtypes import widen
from keras_reg.regularizers import Penalty, StructuralGroupLasso
from keras_reg.regularizers.acting import Claim


class Claims:
    """What `optimizer` has claimed: from here on its prox acts on these variables, and the gradient of their penalty is stopped."""

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer
        self._of: dict[Any, tuple[Any, Any]] = {}

    def __contains__(self, variable: Any) -> bool:
        return self._optimizer._var_key(variable) in self._of

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Each variable with the Keras variable that holds its strength."""
        return iter(self._of.values())

    def strength_of(self, variable: Any) -> Any:
        """The Keras variable that holds the strength."""
        return self._of[self._optimizer._var_key(variable)][1]

    def update(self, variables: Iterable[Any]) -> None:
        """Claim those of the optimizer's variables that have a proximal penalty, and drop the claims of those that have none now."""
        for variable in variables:
            key, penalty = self._optimizer._var_key(variable), variable.regularizer
            wanted = is_proximal(penalty)
            if key in self._of and not (wanted and penalty.claim is not None and penalty.claim.is_of(self._optimizer)):
                _, strength = self._of.pop(key)
                self._optimizer._untrack_variable(strength)
            if wanted and key not in self._of:
                self._of[key] = variable, self._claim(variable)
        self._join()

    def _claim(self, variable: Any) -> Any:
        strength = self._optimizer.add_variable(
            shape=(),
            initializer=keras.initializers.Constant(variable.regularizer.strength),
            dtype=wide(variable),
            aggregation="only_first_replica",
            name=f"{variable.path.replace('/', '_')}_strength",
        )
        # The variable gets a copy of its own: the penalty itself may serve other variables, under other optimizers.
        penalty = variable.regularizer.at_strength(variable.regularizer.strength)
        penalty.claim = Claim(self._optimizer, variable, strength)
        variable.regularizer = penalty
        return strength

    def _join(self) -> None:
        """Tell the parts of a penalty that reaches over several weights of each other."""
        structures: dict[str, list] = {}
        for variable, _ in self:
            if (structure := structure_of(variable.regularizer)) is not None:
                structures.setdefault(structure, []).append(variable)
        for partners in structures.values():
            for variable in partners:
                variable.regularizer.partners = tuple(partners)

    def values(self) -> dict[str, float]:
        """The present strengths, by the paths of the variables."""
        return {variable.path: float(ops.convert_to_tensor(strength)) for variable, strength in self}

    def set(self, strength: float, path: str | None) -> None:
        """Set the strength of all, or of the variable at `path` and those that share its strength."""
        chosen = [claim for claim in self if path is None or path in _paths(claim[0])]
        if not chosen:
            raise ValueError(f"Argument `path` must be one of {sorted(self.values())}. Received: path={path!r}")
        for variable, present in chosen:
            present.assign(strength)
            variable.regularizer.set_strength(strength)

    def in_order(self, variables: Iterable[Any]) -> list:
        """The strengths in the order in which a new optimizer of these variables would claim them, whenever this one did."""
        return [self.strength_of(variable) for variable in variables if variable in self]


def is_proximal(regularizer: Any) -> bool:
    return isinstance(regularizer, Penalty) and regularizer.proximal


def structure_of(regularizer: Any) -> str | None:
    """The name of what a penalty is a part of, if it is."""
    return regularizer.structure if isinstance(regularizer, StructuralGroupLasso) else None


def wide(variable: Any) -> str:
    """The dtype in which the prox of the variable is computed."""
    return backend.standardize_dtype(widen(ops.zeros((), variable.dtype))[0].dtype)


def _paths(variable: Any) -> list[str]:
    """Those of the weights that share a strength."""
    return [partner.path for partner in getattr(variable.regularizer, "partners", ()) or (variable,)]
