"""What is in TensorBoard's event files, as TensorBoard's own reader sees it."""

import numpy as np
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.util import tensor_util


class Events:
    """The scalars and histograms of one run: `{step: value}` by tag, of which each step is there `once`."""

    def __init__(self, directory, once=True):
        # The one behind TensorBoard's pages: it knows both forms of scalars, and drops what a resumed run repeats.
        everything = {plugin_event_accumulator.TENSORS: 0}
        accumulator = plugin_event_accumulator.EventAccumulator(str(directory), size_guidance=everything)
        accumulator.Reload()
        self.scalars, self.histograms = {}, {}
        for tag in accumulator.Tags()["tensors"]:
            plugin = accumulator.SummaryMetadata(tag).plugin_data.plugin_name
            values = [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(tag)]
            # A step that came twice would show twice.
            assert not once or len({step for step, _ in values}) == len(values), tag
            if plugin == "scalars":
                self.scalars[tag] = {step: value.item() for step, value in values}
            elif plugin == "histograms":
                self.histograms[tag] = dict(values)

    def steps(self, tag):
        return list(self.histograms[tag])


def check_histogram(rows, values):
    """Rows of left edge, right edge, count are those of `values`."""
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, 1])
    edges = np.append(rows[:, 0], rows[-1, 1])
    np.testing.assert_array_equal(rows[:, 2], np.histogram(np.asarray(values, "float64"), edges)[0])
    assert rows[:, 2].sum() == np.size(values)
