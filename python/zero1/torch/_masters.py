"""Masters of bfloat16 parameters that the program has written."""

from collections.abc import Container, Sequence

import torch

from ..optimizer import Optimizer
from ._tensors import Registered


def follow(core: Optimizer, registered: Sequence[Registered], written: Container[int]) -> None:
    """What this rank owns of the masters of the parameters `written` takes their values, but for those that round to
    them, which keep their lower bits. On the host, of parameters that each rank has for itself; what others own is
    theirs, so that nobody waits for anybody."""
    masters: dict[int, torch.Tensor] = {}
    for part in core.owned():
        if part.param not in written or part.master_param is None:
            continue
        tensor = registered[part.param].tensor.detach()
        values = masters.setdefault(part.param, torch.zeros(tensor.shape))
        given = tensor.flatten()[part.begin:part.end]
        master = torch.from_numpy(part.master_param.copy())
        keeps = master.to(given.dtype).view(torch.int16) == given.view(torch.int16)
        values.view(-1)[part.begin:part.end] = torch.where(keeps, master, given.float())
    for index, values in masters.items():
        core.set_state(index, "master_param", values.numpy())
