"""Types of other packages that pickle 5 would copy needlessly, by the module that they say they are from.

None of these packages is imported here: what is in `UNMET` is installed when the first value of such a type is met.
NumPy arrays and Arrow tables need nothing: they give pickle their buffers.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

Reducer = Callable[[Any], Any]


def _torch(torch: ModuleType) -> Mapping[type, Reducer]:
    return {torch.Tensor: _reduce_tensor}


UNMET: dict[str, Callable[[ModuleType], Mapping[type, Reducer]]] = {"torch": _torch}
"""Module name to what gives its reducers; without those that were installed."""


def reducers_of(module_name: str) -> Mapping[type, Reducer]:
    """What to install for the module; empty when there is nothing, or the module is not loaded."""
    install, module = UNMET.get(module_name), sys.modules.get(module_name)
    return install(module) if install is not None and module is not None else {}


def _reduce_tensor(tensor: Any) -> Any:
    """Dense tensors in main memory out of band, whatever their type; torch itself writes them into the pickle."""
    torch = sys.modules["torch"]
    if tensor.requires_grad or tensor.is_quantized or tensor.__dict__ or not tensor.numel():
        return NotImplemented
    try:
        if not tensor.is_contiguous():
            return NotImplemented
        data = pickle.PickleBuffer(tensor.reshape(-1).view(torch.uint8).numpy())
    except (RuntimeError, TypeError):  # sparse, on another device, conjugated, ...: torch knows how
        return NotImplemented
    return _make_tensor, (data, tensor.dtype, tuple(tensor.shape))


def _make_tensor(data: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    """A copy: torch knows no read-only memory, so that `optimizer.step()` on a shared buffer would end the process."""
    torch = sys.modules["torch"]  # loaded, since `dtype` is here
    tensor = torch.empty(shape, dtype=dtype, device="cpu")
    memoryview(tensor.reshape(-1).view(torch.uint8).numpy())[:] = memoryview(data)
    return tensor
