"""Files of tensors that describe themselves: JSON as a tensor."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor


def pack_json(value: Any) -> Tensor:
    """JSON as a uint8 tensor, so that a file of tensors describes itself."""
    return torch.tensor(list(json.dumps(value, sort_keys=True).encode()), dtype=torch.uint8)


def unpack_json(tensor: Tensor) -> Any:
    return json.loads(bytes(tensor.tolist()))
