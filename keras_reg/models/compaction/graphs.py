"""The graphs of Sequential and functional models."""

from collections.abc import Callable
from typing import Any

import keras

from keras_reg._keras import check


def graph_of(model: Any) -> Any:
    """The functional graph of a Sequential or functional model; `None` for any other, as for one with a `call` of its own."""
    if not isinstance(model, keras.Model) or not type(model).call.__module__.startswith("keras."):
        return None
    if isinstance(model, keras.Sequential):
        return model._functional if model.built else None
    return model if hasattr(model, "_nodes_by_depth") and hasattr(model, "_inputs_struct") else None


def walk(model: Any, inputs: list, visit: Callable[[Any, tuple, dict, list], list]) -> list:
    """Runs through a model's graph on any kind of values: `visit(operation, args, kwargs, output_tensors)` returns those of the outputs."""
    graph = graph_of(model)
    check("graph", graph)
    values = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.operation or node.is_input or any(id(tensor) not in values for tensor in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(values)
            outputs = visit(node.operation, args, kwargs, node.outputs)
            values.update((id(tensor), value) for tensor, value in zip(node.outputs, outputs, strict=True))
    return [values[id(tensor)] for tensor in graph.outputs]
