"""What a DistributedOptimizer saves and loads: checkpoints, and the state_dicts of torch."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import Error, InvalidError, StateError
from ..optimizer import Optimizer
from ..results import Group, SaveReport
from . import _adamw
from ._tensors import Registered


class Saving:
    """The part of DistributedOptimizer that saves and loads; the fields are its."""

    core: Optimizer
    rank: int
    world_size: int
    param_groups: list[dict[str, Any]]
    _registered: Sequence[Registered]
    _places: list[int]
    _given: list[Group]
    _has_masters: bool
    _written: bool
    _consolidated: dict[str, Any] | None = None  # and "count", the updates in it

    def wait_params(self) -> None:
        raise NotImplementedError

    def _settle(self) -> None:
        raise NotImplementedError

    def _set_groups(self) -> None:
        raise NotImplementedError

    def _note_versions(self) -> None:
        raise NotImplementedError

    # ---- checkpoints ----

    def save(self, root: str | os.PathLike[str], **options: Any) -> None:
        """Writes a checkpoint, each rank its part; parameters are in it. Arguments as zero1.Optimizer.save."""
        self._settle()
        self._set_groups()
        self.core.save(root, **options)

    def save_async(self, root: str | os.PathLike[str], **options: Any) -> None:
        """The same while training goes on: zero1.Optimizer.save_async."""
        self._settle()
        self._set_groups()
        self.core.save_async(root, **options)

    def wait(self) -> None:
        """Waits for the save that is under way, and raises what it failed with."""
        self.core.wait()

    def poll(self) -> bool:
        """Whether no save is under way any more."""
        return self.core.poll()

    def report(self) -> SaveReport:
        return self.core.report()

    def load(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Parameters, state, counts and hyper-parameters of a checkpoint, by any number of ranks; param_groups
        follow. Arguments as zero1.Optimizer.load. Collective."""
        self.wait_params()
        self._set_groups()  # which keep_hyper keeps
        self.core.load(path, **options)
        self._consolidated = None
        self._note_versions()
        for number, values in enumerate(self.param_groups):
            self._given[number] = self.core.get_group(number)
            values.update(_adamw.values_of(self._given[number]))

    # ---- state_dicts ----

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Gathers the whole state on rank `to`, whose state_dict() returns it then. It takes two or three times the
        parameters' memory there: save takes none. Collective."""
        self._settle()
        count, states = self.core.info().count, _adamw.WITH_MASTER if self._has_masters else _adamw.MOMENTS
        state = {}
        for place, index in enumerate(self._places):
            if self.core.registered[index].frozen or not count:
                continue
            found = {name: self.core.get_state(index, name, self.rank == to) for name in states}
            if self.rank == to:
                state[place] = _adamw.entry(count, **{name: torch.from_numpy(values)
                                                      for name, values in found.items()})
        if self.rank == to:
            sizes = [len(group["params"]) for group in self.param_groups]
            self._consolidated = {"count": count, "state_dict": _adamw.make(self.param_groups, sizes, state)}

    def state_dict(self) -> dict[str, Any]:
        """In the format of torch.optim.AdamW's, which loads it. Of several ranks: after consolidate_state_dict, where
        that put it. StateError: it did not, or there were steps since."""
        if self.world_size == 1:
            self.consolidate_state_dict()
        count = self.core.info().count
        if self._consolidated is None or self._consolidated["count"] != count:
            raise StateError("state_dict() of several ranks follows consolidate_state_dict(to=rank), on that rank; "
                             "save(folder) writes the state without gathering it")
        made: dict[str, Any] = self._consolidated["state_dict"]
        return made

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of torch.optim.AdamW, of ZeroRedundancyOptimizer (consolidated) or of this class, the same on every rank:
        each keeps its part. Nothing is changed where an error is raised. Collective.
        MismatchError: other groups or shapes. InvalidError: no state_dict of AdamW, or one with amsgrad."""
        names = [self._registered[index].name for index in self._places]
        try:
            count, states = _adamw.check(self.param_groups, names, state_dict)
        except Error:
            with contextlib.suppress(Error):
                self.core.set_count(-1)  # the peers refuse it, too
            raise
        try:
            self.core.set_count(count)
        except InvalidError as error:
            raise InvalidError(f"another rank has refused its state_dict ({error})") from None
        for place, index in enumerate(self._places):
            if self.core.registered[index].frozen:
                continue
            zeros = torch.zeros(self._registered[index].tensor.shape)
            for name in _adamw.WITH_MASTER if self._has_masters else _adamw.MOMENTS:
                values = states.get(place, {}).get(name, None if name == "master_param" else zeros)
                if values is not None:
                    self.core.set_state(index, name, values.detach().to("cpu", torch.float32).numpy())
        self._written, self._consolidated = True, None  # a master that is not the parameter's is put right
        for group, saved in zip(self.param_groups, state_dict["param_groups"]):
            group.update({key: value for key, value in saved.items() if key not in ("params", "param_names")})
