"""Where Keras adds along the wrong axis.

On TensorFlow `ops.add` takes a second summand with one axis longer than one for a bias of the channels: `(2, 5, 5) + (5, 1)` is added along
the last axis. A cut must neither leave nor enter such a coincidence of lengths. The rules look out for it on every backend, since models
are saved and loaded elsewhere.
"""

from collections.abc import Sequence


def adds_wrongly(shape: Sequence[int | None], addend: Sequence[int | None]) -> bool:
    """Whether `ops.add` of tensors of these shapes does; a batch in the second may be of one."""
    if len(addend) == len(shape) and addend[0] is None:
        addend = [1, *addend[1:]]
    longer = [axis - len(addend) for axis, length in enumerate(addend) if length != 1]
    if len(longer) != 1 or len(shape) < 2:
        return False
    (axis,) = longer
    length = addend[axis]
    if length is None or length not in (shape[1], shape[-1]):
        return False
    return axis != (-1 if shape[-1] == length else 1 - len(shape))
