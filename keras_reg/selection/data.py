"""What `fit` takes as data: arrays in any nesting, which can be cut, and datasets, which can be read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_reg._validation import received, shown


@dataclass(frozen=True)
class Data:
    """Inputs, targets and weights of examples, or a dataset of these in `x`."""

    x: Any
    y: Any = None
    sample_weight: Any = None
    class_weight: Any = None

    @classmethod
    def of(cls, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, name: str = "") -> "Data":
        """Refuses what `fit` could not use."""
        if not is_arrays(x):
            if y is not None or sample_weight is not None:
                raise ValueError(f"Argument `{name}y` must be None where `{name}x` is a dataset. {received(y, f'{name}y')}")
            if not (hasattr(x, "__iter__") or isinstance(x, keras.utils.PyDataset)) or isinstance(x, (str, bytes, dict)):
                raise TypeError(f"Argument `{name}x` must be arrays or a dataset, as `fit` takes it. {received(x, f'{name}x')}")
            return cls(x, class_weight=class_weight)
        if y is None:
            raise ValueError(f"Argument `{name}y` must have the targets of `{name}x`. Received: {name}y=None")
        data = cls(*(part if part is None else tree.map_structure(_array, part) for part in (x, y, sample_weight)), class_weight)
        lengths = {
            part: {len(leaf) for leaf in tree.flatten(getattr(data, part)) if leaf is not None} for part in ("x", "y", "sample_weight")
        }
        for part in ("y", "sample_weight"):
            if lengths[part] and lengths[part] != lengths["x"]:
                raise ValueError(
                    f"Argument `{name}{part}` must have a row for each of the examples of `{name}x`, {sorted(lengths['x'])}. "
                    f"Received: {name}{part} of length {sorted(lengths[part])}"
                )
        return data

    @property
    def cuttable(self) -> bool:
        return is_arrays(self.x)

    def __len__(self) -> int:
        return len(tree.flatten(self.x)[0])

    def cut(self, index: Any) -> "Data":
        """Some of the examples."""
        parts = (part if part is None else tree.map_structure(lambda a: a[index], part) for part in (self.x, self.y, self.sample_weight))
        return Data(*parts, self.class_weight)

    def check_targets(self, model: Any) -> None:
        """Refuse targets of another shape than the outputs, which Keras's losses would broadcast."""
        outputs = getattr(model, "outputs", None) or []
        if not self.cuttable or len(outputs) != 1 or not hasattr(self.y, "shape"):
            return
        wanted, given = tuple(outputs[0].shape[1:]), tuple(self.y.shape[1:])
        fits = all(a in (b, None) for a, b in zip(wanted, given, strict=False)) or given == (*wanted[:-1], 1)
        if len(given) == len(wanted) and not fits:
            raise ValueError(f"Argument `y` must have the shape of the outputs, {(None, *wanted)}. Received: y of shape {self.y.shape}")

    def batches(self, batch_size: int) -> Iterator[tuple[tuple, int]]:
        """Inputs, targets and weights with the number of examples in them."""
        if self.cuttable:
            parts = (self.cut(slice(start, start + batch_size)) for start in range(0, len(self), batch_size))
            read = ((part.x, part.y, part.sample_weight) for part in parts)
        elif hasattr(self.x, "__next__"):
            raise TypeError(f"Argument `x` must be data that can be read more than once: arrays or a dataset. {received(self.x, 'x')}")
        else:
            items = (self.x[i] for i in range(len(self.x))) if isinstance(self.x, keras.utils.PyDataset) else iter(self.x)
            read = ((*item, None, None)[:3] if isinstance(item, (tuple, list)) else (item, None, None) for item in items)
        for x, y, weight in read:
            parts = [part if part is None else tree.map_structure(_array, part) for part in (x, y, weight)]
            parts[2] = self._weights(parts[1], parts[2])
            yield tuple(parts), len(tree.flatten(parts[0])[0])

    def _weights(self, y: Any, weight: Any) -> Any:
        """Weights of examples, with those of their classes."""
        if self.class_weight is None:
            return weight
        if not hasattr(y, "shape"):
            raise ValueError(f"Argument `class_weight` needs targets of one output. {received(self.class_weight, 'class_weight')}")
        classes = y.argmax(axis=-1) if y.ndim > 1 and y.shape[-1] > 1 else y.reshape(len(y)).astype(int)
        own = np.array([self.class_weight.get(int(one), 1.0) for one in classes], "float32")
        return own if weight is None else own * weight


def _array(values: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(values) if keras.ops.is_tensor(values) else np.asarray(values)


def is_arrays(x: Any) -> bool:
    if isinstance(x, keras.utils.PyDataset):
        return False
    leaves = tree.flatten(x)
    return bool(leaves) and all(hasattr(leaf, "__array__") and len(np.shape(leaf)) > 0 for leaf in leaves)


def validation_of(value: Any) -> Data | None:
    """`validation_data` as `fit` takes it."""
    if value is None or isinstance(value, Data):
        return value
    if isinstance(value, (tuple, list)):
        if len(value) not in (2, 3):
            raise ValueError(f"Argument `validation_data` must be (x, y) or (x, y, sample_weight). Received: {len(value)} parts")
        return Data.of(*value, name="validation_")
    if is_arrays(value):
        raise ValueError(f"Argument `validation_data` must have targets too. Received: {shown(type(value).__name__)}")
    return Data.of(value, name="validation_")
