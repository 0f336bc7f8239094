"""Saved models in which zeros take little room."""

import os
import pathlib
import shutil
import tempfile
import zipfile
import zlib

import keras

from keras_reg._validation import received

EXPANSION, FLOOR = 100, 2**28
"""Keras 3.15.1 refuses parts of more bytes than the second that unpack to more than so many times their size."""


def save_compressed(model: keras.Model, path: str | os.PathLike) -> None:
    """Save a model as `model.save` does, with every part of the file deflated.

    `keras.models.load_model` reads it as any other. A `.keras` file is an archive whose parts Keras stores as they are, so that a weight of
    0 takes four bytes; deflated, 90 % zeros leave about a seventh of the file. Time and memory of the loaded model are those of before: for
    these, see `compact`. A model with penalties needs `import keras_reg` where it is loaded; one from `strip` needs nothing.

    Args:
        model: A Keras model.
        path: Where to write, ending in `.keras`. A file that is there is written over.

    Raises:
        TypeError: where `model` is not a Keras model.
        ValueError: where `path` does not end in `.keras`.

    Example:

    >>> import keras, os, tempfile
    >>> from keras_reg.models import save_compressed
    >>> model = keras.Sequential([keras.Input((500,)), keras.layers.Dense(100, kernel_initializer="zeros")])
    >>> folder = tempfile.mkdtemp()
    >>> model.save(folder + "/plain.keras")
    >>> save_compressed(model, folder + "/small.keras")
    >>> os.path.getsize(folder + "/small.keras") < os.path.getsize(folder + "/plain.keras") / 10
    True
    >>> keras.models.load_model(folder + "/small.keras").count_params()
    50100
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a Keras model. {received(model, 'model')}")
    target = pathlib.Path(path)
    if target.suffix != ".keras":
        raise ValueError(f"Argument `path` must end in '.keras'. {received(str(path), 'path')}")
    with tempfile.TemporaryDirectory() as folder:
        plain, small = pathlib.Path(folder, "plain.keras"), pathlib.Path(folder, "small.keras")
        model.save(plain)
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
            for part in source.infolist():
                _copy(source, archive, part)
        shutil.move(small, target)


def _copy(source: zipfile.ZipFile, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    """One part of the archive, deflated unless Keras would take it for an attack."""
    entry = zipfile.ZipInfo(part.filename, part.date_time)
    entry.compress_type = zipfile.ZIP_DEFLATED if _may_be_deflated(source, part) else zipfile.ZIP_STORED
    with source.open(part) as reader, archive.open(entry, "w", force_zip64=part.file_size > FLOOR) as writer:
        shutil.copyfileobj(reader, writer, 2**20)


def _may_be_deflated(source: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    if part.file_size <= FLOOR:
        return True
    packer, size = zlib.compressobj(wbits=-15), 0
    with source.open(part) as reader:
        while chunk := reader.read(2**20):
            size += len(packer.compress(chunk))
    return part.file_size <= EXPANSION * (size + len(packer.flush()))
