"""The check of a penalty against the shape of the weights it is given, when a layer is built.

Keras hands a regularizer nothing before the first loss: `add_weight` only assigns it to the variable. That assignment is the
one moment at which an axis that the kernel lacks can be refused before any work is lost, so the setter is extended by the check.
"""

import keras

from keras_reg.binding import is_record
from keras_reg.regularizers.penalty import Penalty


def _install() -> None:
    inherited = keras.Variable.regularizer
    if getattr(inherited.fset, "checks_penalties", False):
        return

    def assign(variable, regularizer):
        if isinstance(regularizer, keras.Layer):
            # Keras takes whatever can be called, also one that a file puts there.
            raise ValueError(f"A layer cannot be the regularizer of {variable.path!r}. Received: {regularizer!r}")
        if is_record(regularizer) and regularizer.variable is not variable:
            regularizer = regularizer.present  # a record is of one weight
        if isinstance(regularizer, Penalty):
            try:
                regularizer.check_shape(tuple(variable.shape))
            except ValueError as error:
                raise ValueError(f"{regularizer!r} cannot act on {variable.path!r} of shape {tuple(variable.shape)}. {error}") from None
        inherited.fset(variable, regularizer)

    assign.checks_penalties = True
    keras.Variable.regularizer = property(inherited.fget, assign, doc=inherited.__doc__)


_install()
