"""PyTorch models whose optimizer's state is sharded over data-parallel ranks.

    optimizer = zero1.torch.DistributedOptimizer(model.named_parameters(), lr=1e-3)

takes the place of DistributedDataParallel and torch.optim.AdamW; the training loop stays as it is."""

from ._adamw import state_dict_of
from .optimizer import DistributedOptimizer

__all__ = ["DistributedOptimizer", "state_dict_of"]
