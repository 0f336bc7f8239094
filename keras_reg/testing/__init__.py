"""The contract of a penalty as a public function, for penalties of your own."""

from keras_reg.testing.contract import check_penalty

__all__ = [
    "check_penalty",
]


def __dir__() -> list[str]:
    return __all__  # what tab completion offers
