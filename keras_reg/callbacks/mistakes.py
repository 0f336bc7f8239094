"""The warning of silent mistakes with which the callbacks start a training."""

import warnings
import weakref
from typing import Any

from keras_reg.regularizers import Penalty
from keras_reg.regularizers.mistakes import find

_warned: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def warn_of_mistakes(model: Any) -> None:
    """Warn, once for each, of what is sure to be a mistake; `keras_reg.models.check` lists the doubtful too."""
    if not model.built:
        return
    # A schedule may start at strength 0; of a prox that is not applied the penalty itself warns.
    starting = {v.path.removeprefix(f"{model.name}/") for v in model.weights if isinstance(v.regularizer, Penalty)}
    known = _warned.setdefault(model, set())
    new = []
    for finding in find(model, thorough=False):
        weights = sorted(set(finding.weights) - (starting if finding.kind == "no-op" else set()))
        if finding.sure and finding.kind != "unapplied" and weights and (finding.kind, *weights) not in known:
            known.add((finding.kind, *weights))
            where = ", ".join(weights[:4]) + (", …" if len(weights) > 4 else "")
            new.append(f"{where}: {finding.message}. To mend it: {finding.remedy}.")
    if new:
        lines = "\n".join(new)
        warnings.warn(f"The penalties of {model.name!r} are not what they seem (see `keras_reg.models.check`):\n{lines}", stacklevel=3)
