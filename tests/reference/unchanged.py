"""The user's model is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Asserts at the end that weights, modes, flags, hooks, gradients and attributes are those of the start."""
    before = _state(model)
    yield
    after = _state(model)
    weights, expected = after.pop("weights"), before.pop("weights")
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert after == before


def _state(model: Any) -> dict[str, Any]:
    modules = list(model.modules())
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "identities": [(name, id(parameter)) for name, parameter in model.named_parameters()],
        "types": [(parameter.dtype, str(parameter.device)) for parameter in model.parameters()],
        "asking": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad is None for parameter in model.parameters()],
        "training": [module.training for module in modules],
        "hooks": [[*m._forward_hooks.values(), *m._forward_pre_hooks.values(), *m._backward_hooks] for m in modules],
        "attributes": [
            {name: repr(value) for name, value in vars(m).items() if isinstance(value, (bool, int, float, str, tuple))}
            for m in modules
        ],
    }
