"""TensorBoard's event files, written and read with the `tensorboard` package; TensorFlow is used where it is loaded anyway."""

import contextlib
import functools
import itertools
import os
import socket
import time
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import backend

_count = itertools.count()


def _file_system() -> Any:
    """TensorFlow's, which know more remote addresses, where it is loaded anyway; else those of TensorBoard itself."""
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.io.gfile
    from tensorboard.compat.tensorflow_stub.io import gfile

    return gfile


def _record_writer(path: str) -> Any:
    """The framing is the same; TensorFlow's checksum is the faster."""
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.io.TFRecordWriter(path)
    from tensorboard.summary.writer.record_writer import RecordWriter

    return RecordWriter(_file_system().GFile(path, "wb"))


def scalar_record(tag: str, value: float) -> Any:
    return _protos().summary.Summary.Value(tag=tag, simple_value=value)


def histogram_record(tag: str, edges: np.ndarray, counts: np.ndarray) -> Any:
    # TensorBoard's own checksum, in Python, is slow: half the bytes do where they hold the same numbers.
    exact = (edges.astype("float32") == edges).all() and counts.max(initial=0) <= 2**24
    rows = np.empty((len(counts), 3), "<f4" if exact else "<f8")
    rows[:, 0], rows[:, 1], rows[:, 2] = edges[:-1], edges[1:], counts
    protos = _protos()
    return protos.summary.Summary.Value(
        tag=tag,
        metadata=_histogram_metadata(),
        tensor=protos.tensor.TensorProto(
            dtype=protos.types.DT_FLOAT if exact else protos.types.DT_DOUBLE,
            tensor_shape=_histogram_shape(len(counts)),
            tensor_content=rows.tobytes(),
        ),
    )


@functools.cache
def _protos() -> Any:
    """TensorBoard's messages; looked up once, as there are thousands of records to a logging."""
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2

    return types.SimpleNamespace(summary=summary_pb2, tensor=tensor_pb2, shape=tensor_shape_pb2, types=types_pb2)


@functools.cache
def _histogram_shape(bins: int) -> Any:
    shape = _protos().shape.TensorShapeProto
    return shape(dim=[shape.Dim(size=bins), shape.Dim(size=3)])


@functools.cache
def _histogram_metadata() -> Any:
    from tensorboard.plugins.histogram import metadata

    return metadata.create_summary_metadata(display_name=None, description=None)


class EventFile:
    """Appends records to a file in a directory; a fault of the file system costs the logs, with one warning, and never the training.

    What was written is on the disk when `write` returns. A directory that vanishes is made again, with a new file in it.

    Args:
        directory: Local, or an address that TensorBoard's own writer takes.
        step: What TensorBoard has of this step and later ones is from a run that was broken off, and gives way to this file.
    """

    def __init__(self, directory: str, step: int):
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise ImportError("Writing TensorBoard's event files needs the package tensorboard: pip install tensorboard") from error
        self.directory = directory
        self.step = step
        self.path = None
        self.failed = self._warned = False

    def write(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        if self.failed:
            return
        try:
            if self.path is not None and not _file_system().exists(self.path):
                self._warn(f"{self.path} has vanished. Logging goes on in a new file; what was in the old one is lost.")
                self.path, self.step = None, step
            if self.path is None:
                self._open()
            self._append(event_pb2.Event(step=step, wall_time=time.time(), summary=summary_pb2.Summary(value=values)))
        # Each file system has exceptions of its own.
        except Exception as error:
            self.failed = True
            self._warn(f"{self.directory} cannot be written to, so no more is logged; training goes on. {type(error).__name__}: {error}")

    def _open(self) -> None:
        from tensorboard.compat.proto import event_pb2

        _file_system().makedirs(self.directory)
        # TensorBoard reads the files of a directory in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_count):06d}"
        path = os.path.join(self.directory, name)
        self._records = _record_writer(path)
        self._append(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._append(event_pb2.Event(step=self.step, wall_time=time.time(), session_log=start))
        self.path = path

    def _append(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"WeightHistogram: {text}", stacklevel=2)

    def close(self) -> None:
        """Let go of the file. Everything is written already."""
        if self.path is not None and not self.failed:
            try:
                self._records.close()
            except Exception as error:
                self._warn(f"{self.path} could not be closed. {type(error).__name__}: {error}")
        self.failed = True


def read_histograms(directory: str) -> dict[str, dict[int, np.ndarray]]:
    """What `WeightHistogram` wrote below a directory: rows of left edge, right edge and count, by tag and step."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.util import tensor_util

    found: dict[str, dict[int, np.ndarray]] = {}
    paths = [os.path.join(folder, name) for folder, _, names in _file_system().walk(directory) for name in names if "tfevents" in name]
    for path in sorted(paths):
        for record in _records(path):
            event = event_pb2.Event.FromString(record)
            if event.session_log.status == event.session_log.START:
                for steps in found.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "histograms":
                    found.setdefault(value.tag, {})[event.step] = tensor_util.make_ndarray(value.tensor)
    return {tag: dict(sorted(steps.items())) for tag, steps in found.items() if steps}


def _records(path: str) -> Iterator[bytes]:
    """Those of a file, up to the last, which a process that was killed may have cut short."""
    if backend.backend() == "tensorflow":
        import tensorflow as tf

        with contextlib.suppress(tf.errors.DataLossError):
            yield from tf.data.TFRecordDataset(path).as_numpy_iterator()
        return
    from tensorboard.compat.tensorflow_stub import errors, pywrap_tensorflow

    reader = pywrap_tensorflow.PyRecordReader_New(path)
    with contextlib.suppress(errors.OutOfRangeError, errors.DataLossError):
        while True:
            reader.GetNext()
            yield reader.record()
