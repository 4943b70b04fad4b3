"""State in the format of torch.optim.AdamW's state_dict, which ZeroRedundancyOptimizer's consolidated one shares:

    {"state": {index: {"step", "exp_avg", "exp_avg_sq"}}, "param_groups": [{"lr", ..., "params": [index]}]}

Indices count the parameters of all groups, group by group. "master_param" is there besides where parameters have
a master of their own."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import checkpoint
from ..errors import InvalidError, MismatchError
from ..results import Group

#: What AdamW's groups have besides, as it has them by default.
_OTHERS = {"amsgrad": False, "maximize": False, "foreach": None, "capturable": False, "differentiable": False,
           "fused": None}
MOMENTS = ("exp_avg", "exp_avg_sq")
WITH_MASTER = (*MOMENTS, "master_param")


def group_of(values: Mapping[str, Any]) -> Group:
    """The library's hyper-parameters of a group of torch's. InvalidError: names the one that is none."""
    try:
        beta1, beta2 = values["betas"]
        return Group(float(values["lr"]), float(beta1), float(beta2), float(values["eps"]),
                     float(values["weight_decay"]), bool(values["decoupled_weight_decay"]))
    except (TypeError, ValueError) as error:
        raise InvalidError(f"a group's lr, betas, eps or weight_decay: {error}") from None


def values_of(group: Group) -> dict[str, Any]:
    """The other way."""
    return {"lr": group.lr, "betas": (group.beta1, group.beta2), "eps": group.eps,
            "weight_decay": group.weight_decay, "decoupled_weight_decay": group.decoupled_weight_decay}


def make(groups: Sequence[Mapping[str, Any]], sizes: Sequence[int], state: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """A state_dict of groups with so many parameters each."""
    made, first = [], 0
    for group, size in zip(groups, sizes):
        others = {key: value for key, value in group.items() if key != "params"}
        made.append(_OTHERS | others | {"params": list(range(first, first + size))})
        first += size
    return {"state": state, "param_groups": made}


def entry(count: int, **states: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state of one parameter after `count` updates."""
    return {"step": torch.tensor(float(count)), **states}


# ---- what is to be loaded ----


def _check_groups(groups: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]) -> None:
    if len(groups) != len(given):
        raise MismatchError(f"the state_dict has {len(given)} groups, and the optimizer {len(groups)}")
    for number, (group, other) in enumerate(zip(groups, given)):
        if len(group["params"]) != len(other["params"]):
            raise MismatchError(f"group {number} has {len(other['params'])} parameters in the state_dict, and "
                                f"{len(group['params'])} in the optimizer")
        for name in ("amsgrad", "maximize"):
            if other.get(name):
                raise InvalidError(f"group {number} of the state_dict has {name}, which there is none of here")
        group_of({**group, **other})


def _check_entry(name: str, tensor: torch.Tensor, state: Mapping[str, Any]) -> None:
    for moment in WITH_MASTER:
        found = state.get(moment)
        if found is None and moment in MOMENTS:
            raise InvalidError(f"the state_dict has no {moment} of parameter {name!r}")
        if found is not None and (not isinstance(found, torch.Tensor) or found.shape != tensor.shape):
            shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise MismatchError(f"parameter {name!r} is {list(tensor.shape)}, and its {moment} in the state_dict "
                                f"{shape}")


def check(groups: Sequence[Mapping[str, Any]], names: Sequence[str], given: Any) -> tuple[int, dict[int, Any]]:
    """Updates, and states by the position of their parameter in all groups. MismatchError, InvalidError: what is not
    for these groups, before anything is changed."""
    try:
        _check_groups(groups, given["param_groups"])
        keys = [key for group in given["param_groups"] for key in group["params"]]
        states = {place: given["state"][key] for place, key in enumerate(keys) if key in given["state"]}
        tensors = [tensor for group in groups for tensor in group["params"]]
        steps = {}
        for place, state in states.items():
            _check_entry(names[place], tensors[place], state)
            steps[place] = int(state["step"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidError(f"this is no state_dict of AdamW: {type(error).__name__} {error}") from None
    count = max(steps.values(), default=0)
    behind = [place for place, step in steps.items() if step != count]
    if behind:
        warnings.warn(f"{len(behind)} parameters, {names[behind[0]]!r} first, were updated {steps[behind[0]]} times "
                      f"and others {count}: all count as {count} from here on", stacklevel=4)
    return count, states


# ---- of a checkpoint ----


def state_dict_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What torch.optim.AdamW.load_state_dict takes, of a checkpoint, or of a root's latest: no rank and no MPI is
    needed. Within each group parameters are in the order in which they were registered ("param_names").
    NotFoundError, CorruptError, VersionError, IOError."""
    with checkpoint.open(path) as saved:
        groups: list[dict[str, Any]] = [values_of(group) | {"param_names": []} for group in saved.groups]
        for param in saved.params:
            groups[param.group]["param_names"].append(param.name)
        by_name = {param.name: param for param in saved.params}
        state, index = {}, 0
        for name in (name for group in groups for name in group["param_names"]):
            if not by_name[name].frozen and saved.count:
                states = MOMENTS if saved.param_dtype == "fp32" else WITH_MASTER
                state[index] = entry(saved.count, **{moment: torch.from_numpy(saved.read(name, moment))
                                                     for moment in states})
            index += 1
        return make(groups, [len(group["param_names"]) for group in groups], state)
