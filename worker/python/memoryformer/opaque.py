"""What torch.compile is not to look into."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

import torch

_F = TypeVar("_F", bound=Callable[..., Any])


def opaque(function: _F) -> _F:
    """torch.compile calls it as it is."""
    dynamo = getattr(torch, "_dynamo", None)
    same: _F = function if dynamo is None else dynamo.disable(function)
    return same
