"""How many operations PyTorch launches for a loss, forward and back: on a GPU a step takes as long as it has operations."""

import keras
import pytest

if keras.backend.backend() == "torch":
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from keras_reg.losses import LabelSmoothingCrossentropy

    VIEWS = {"view", "_unsafe_view", "expand", "unsqueeze", "squeeze", "permute", "transpose", "t", "select", "slice", "detach", "alias"}

    class Operations(TorchDispatchMode):
        """The names of all operations, views left out."""

        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket.__name__
            if name not in VIEWS:
                self.names.append(name)
            return function(*args, **(kwargs or {}))

    def step(loss):
        labels, logits = torch.randint(0, 5000, (512,)), torch.randn(512, 5000, requires_grad=True)
        with Operations() as operations:
            torch.autograd.grad(loss(labels, logits), logits)
        return operations.names

    def one_hot(y, z):
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(keras.ops.one_hot(y, z.shape[-1]), z)

    @pytest.mark.parametrize("seen", [True, False])
    @pytest.mark.parametrize(("option", "most"), [(None, 35), ("class_weight", 50), ("prior", 41)])
    def test_label_smoothing(option, most, seen, monkeypatch):
        if not seen:  # labels on a GPU, of which nothing may be read back
            monkeypatch.setattr("keras_reg._labels.can_be_seen", lambda tensor: False)
        options = {} if option is None else {option: [1.0] * 5000}
        names = step(LabelSmoothingCrossentropy(0.1, from_logits=True, **options))
        assert len(names) <= most, names
        assert "_local_scalar_dense" not in names
        assert option or len(names) <= len(step(one_hot))
