"""What is known of a fit, and the folder in which it is kept as soon as it is known, as files that people can read."""

import csv
import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_reg._validation import received

ABOUT = "path.json"


@dataclass
class Point:
    """One strength of a path.

    Attributes:
        index: Its place on the grid, from 0.
        strength: That of the strongest penalty.
        epochs, seconds: What the fit took.
        weights_in_all, nonzero: Of the weights with penalties.
        groups, nonzero_groups: Of their groups.
        objective: The loss of the last epoch, penalties included.
        scores: The metrics on validation data; with folds their means.
        errors: Their standard errors.
        weights: All weights of the model, as `model.set_weights` takes them.
    """

    index: int
    strength: float
    epochs: int
    seconds: float
    weights_in_all: int
    nonzero: int
    groups: int
    nonzero_groups: int
    objective: float
    scores: dict[str, float]
    errors: dict[str, float]
    weights: list[np.ndarray] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, without the weights."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "weights"}


class Folder:
    """A folder for the fits of one path, or none (`None`): a JSON file and the weights for each."""

    def __init__(self, path: Any):
        self.path = None if path is None else Path(path)

    def begin(self, about: dict[str, Any], strengths: Callable[[], list[float]]) -> dict[str, Any]:
        """Notes what the path is, and its strengths, which are as they were noted when it was begun.

        Raises:
            ValueError: where the folder has another path, or other things.
        """
        if self.path is None:
            return {**about, "strengths": strengths()}
        file = self.path / ABOUT
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            for key in about:
                if before.get(key) != json.loads(json.dumps(about[key])):
                    raise ValueError(
                        f"Argument `folder` has a path with {key}={before.get(key)!r}: give another folder, or what it was begun with. "
                        f"Received: folder={str(self.path)!r} and {key}={about[key]!r}"
                    )
            return before
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"Argument `folder` must be new, empty or of a path begun before. {received(str(self.path), 'folder')}")
        about = {**about, "strengths": strengths()}
        self.path.mkdir(parents=True, exist_ok=True)
        _write(file, json.dumps(about, indent=2))
        return about

    @property
    def is_here(self) -> bool:
        """Whether it can be reached, which on another machine it may not."""
        return self.path is not None and (self.path / ABOUT).exists()

    def read(self, job: str, index: int) -> Point | None:
        if not self.is_here or not (file := self.path / job / f"{index:03d}.json").exists():
            return None
        with np.load(file.with_suffix(".npz")) as stored:
            weights = [stored[str(number)] for number in range(len(stored.files))]
        return Point(**json.loads(file.read_text(encoding="utf-8")), weights=weights)

    def write(self, job: str, point: Point) -> None:
        if not self.is_here or (file := self.path / job / f"{point.index:03d}.json").exists():
            return
        file.parent.mkdir(exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}.npz")
        np.savez_compressed(unfinished, **{str(number): w for number, w in enumerate(point.weights)})
        os.replace(unfinished, file.with_suffix(".npz"))
        _write(file, json.dumps(point.to_dict(), indent=2))  # last: it says that both are there

    def write_table(self, rows: list[dict[str, Any]]) -> None:
        if self.is_here:
            with open(self.path / "path.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)


def _write(file: Path, text: str) -> None:
    unfinished = file.with_suffix(f".{os.getpid()}.part")
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, file)
