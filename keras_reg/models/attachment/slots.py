"""Which attribute of a layer feeds which of its weights with a regularizer, when the layer is rebuilt from its config.

Found out by doing it, on a copy: a mark is put wherever the config has, or could have, a regularizer, and the weights of the copy tell
where it arrives; then on each attribute of the copy, whose config tells where that is written. No list of layer classes could say that
of a wrapper, a block or a model of the user's. The layer itself is only read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_reg.contract import REGULARIZER_ATTRIBUTE, regularizer_attributes
from keras_reg.models.attachment.carrier import bare_config
from keras_reg.models.attachment.rebuilt import layer_pairs, rebuild_from, refusals


class RegularizerMark(keras.regularizers.Regularizer):
    """A regularizer that does nothing and is recognised. Keras doesn't know it but where a copy is made."""

    def __init__(self, number: int):
        self.number = number

    def __call__(self, w: Any) -> Any:
        return keras.ops.zeros(())

    def get_config(self) -> dict:
        return {"number": self.number}


MARKS = {"RegularizerMark": RegularizerMark}


@dataclass(frozen=True)
class Slot:
    """An attribute of a layer whose regularizer reaches, in a rebuilt copy, the weights at `indices`; and the same one of such a copy."""

    layer: Any
    twin: Any
    attribute: str
    indices: tuple[int, ...]

    def get(self) -> Any:
        return vars(self.layer)[self.attribute]

    def set(self, regularizer: Any) -> None:
        # Past Keras's tracking, which has nothing to do with it: this cannot be done by half.
        vars(self.layer)[self.attribute] = regularizer

    def try_on(self, regularizer: Any) -> None:
        vars(self.twin)[self.attribute] = regularizer


@dataclass(frozen=True)
class Slots:
    """What a copy of a layer tells.

    Attributes:
        all: The attributes that hold the regularizer of a weight, or would.
        fixed: For each weight the regularizer that it is rebuilt with whatever they hold.
        copy: The copy.
        weights: Its weights, in the order of those of the layer.
    """

    all: tuple[Slot, ...]
    fixed: tuple[Any, ...]
    copy: Any
    weights: tuple[Any, ...]

    @classmethod
    def of(cls, layer: Any) -> "Slots":
        with refusals():
            config = bare_config(layer)
        places = list(_places(config))
        given = [node[key] for _, node, key in places]
        for number, (_, node, key) in enumerate(places):
            node[key] = _mark(number)
        copy, weights = rebuild_from(config, layer, MARKS)
        rebuilt = [v.regularizer for v in weights]

        # From now on on the copy, by the numbers that follow.
        first = len(places)
        pairs = [(a, b, n) for a, b in layer_pairs(layer, copy) for n in regularizer_attributes(a) if n in vars(b)]
        for number, (_, twin, name) in enumerate(pairs, first):
            vars(twin)[name] = RegularizerMark(number)
        with refusals():
            written = bare_config(copy)
        attribute_of = _compare(places, given, written, first)
        if attribute_of is None:
            _unmark(written, given)
            # As it was built, which a copy built by being called may not know.
            as_built = {"build_config": config["build_config"]} if "build_config" in config else {}
            rebuilt = [v.regularizer for v in rebuild_from({**written, **as_built}, layer, MARKS)[1]]
            attribute_of = {number: number for number in range(first, first + len(pairs))}
        reached = [attribute_of.get(r.number) if isinstance(r, RegularizerMark) else None for r in rebuilt]
        found = [
            Slot(own, twin, name, tuple(i for i, r in enumerate(reached) if r == number))
            for number, (own, twin, name) in enumerate(pairs, first)
        ]
        fixed = tuple(None if isinstance(r, RegularizerMark) else r for r in rebuilt)
        return cls(tuple(found), fixed, copy, tuple(weights))


def _mark(number: int) -> dict:
    return {"module": "keras_reg", "class_name": "RegularizerMark", "config": {"number": number}, "registered_name": "RegularizerMark"}


def _number(node: Any) -> int:
    is_mark = isinstance(node, dict) and node.get("registered_name") == "RegularizerMark"
    return node["config"]["number"] if is_mark else -1


def _places(node: Any, path: tuple = ()) -> Iterator[tuple[tuple, dict, str]]:
    """Where a config has a regularizer of a weight or none: the way there, by the names of layers; the dict; and the key in it."""
    if isinstance(node, dict):
        inner = node.get("config")
        path = (*path, inner.get("name")) if isinstance(inner, dict) else path
        for key, value in node.items():
            if isinstance(key, str) and REGULARIZER_ATTRIBUTE.fullmatch(key) and (value is None or _is_object(value)):
                yield (*path, key), node, key
            else:
                yield from _places(value, (*path, key))
    elif isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            named = isinstance(item, dict) and isinstance(item.get("config"), dict) and "name" in item["config"]
            yield from _places(item, path if named else (*path, index))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "class_name" in value and isinstance(value.get("config"), dict)


def _compare(places: list[tuple], given: list[Any], written: dict, first: int) -> dict[int, int] | None:
    """For each place in the config the attribute that is written there; `None` where only rebuilding once more can tell."""
    at = {path: _number(node[key]) for path, node, key in _places(written)}
    if len(at) < len(places) or at.keys() != {path for path, _, _ in places}:
        return None
    by_attribute = {number: at[path] for number, (path, _, _) in enumerate(places) if at[path] >= first}
    kept_by_other_means = [value for number, value in enumerate(given) if number not in by_attribute]
    if any(value is not None for value in kept_by_other_means) or len(by_attribute) < sum(n >= first for n in _marks(written)):
        return None
    return by_attribute


def _marks(node: Any) -> Iterator[int]:
    """The numbers of all marks in a config."""
    if _number(node) >= 0:
        yield _number(node)
    else:
        for item in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
            yield from _marks(item)


def _unmark(written: Any, given: list[Any]) -> None:
    """What is in the config by other means than an attribute is there again as it was."""
    for _, node, key in _places(written):
        if 0 <= _number(node[key]) < len(given):
            node[key] = given[_number(node[key])]
