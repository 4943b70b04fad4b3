"""Hooks of autograd give the bits of explicit calls of the core, in whatever way they are handed over."""

import copy

import numpy
from torch_ranks import bits_of, on_ranks, optimizer_of, same_bits, torch

import zero1

STEPS = 4
MICROBATCHES = 3
#: Ways that differ in when things go where, and in nothing else.
WAYS = [{}, {"overlap": False}, {"overlap_forward": True}, {"share_params": True},
        {"overlap": False, "overlap_forward": True, "share_params": True}, {"bucket_numel": 1024},
        {"bucket_numel": 2048, "overlap_forward": True, "share_params": True}]


def made_model(dtype=torch.float32):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(60, 50), torch.nn.GELU(), torch.nn.Linear(50, 40, bias=False),
                               torch.nn.LayerNorm(40), torch.nn.Linear(40, 1)).to(dtype)


def loss_of(model, step: int, micro: int, rank: int):
    random = torch.Generator().manual_seed(100 * step + 10 * micro + rank)
    return model(torch.randn(5, 60, generator=random).to(next(model.parameters()).dtype)).float().square().mean()


def groups_of(model) -> list[dict]:
    named = list(model.named_parameters())
    return [{"params": [entry for entry in named if "weight" in entry[0]], "lr": 1e-2},
            {"params": [entry for entry in named if "bias" in entry[0]], "lr": 5e-3, "weight_decay": 0.0}]


def stored(tensor) -> numpy.ndarray:
    """As the core takes it."""
    tensor = tensor.detach()
    return tensor.view(torch.int16).numpy().view(numpy.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


class Explicit:
    """The same training by calls of the core, with gradients as torch adds them up."""

    def __init__(self, model, comm, **config):
        self.model = copy.deepcopy(model)
        dtype = "bf16" if next(model.parameters()).dtype == torch.bfloat16 else "fp32"
        named = list(self.model.named_parameters())
        self.core = zero1.Optimizer([(name, stored(tensor), int("bias" in name)) for name, tensor in named], comm=comm,
                                    groups=[zero1.Group(lr=1e-2), zero1.Group(lr=5e-3, weight_decay=0.0)], threads=1,
                                    param_dtype=dtype, grad_dtype=dtype, **config)
        self.norms, self.grads = [], []

    def train(self) -> None:
        for step in range(STEPS):
            self.model.zero_grad()
            for micro in range(MICROBATCHES):
                if micro == MICROBATCHES - 1:
                    self.grads.append(bits_of([tensor.grad for tensor in self.model.parameters()]))
                loss_of(self.model, step, micro, self.core.rank).backward()
            self.core.wait_params()
            for index, tensor in enumerate(self.model.parameters()):
                self.core.grads[index] = stored(tensor.grad)
            self.core.grads_ready()
            self.core.step()
            self.norms.append(self.core.info().grad_norm)
            with torch.no_grad():
                for tensor, values in zip(self.model.parameters(), self.core.params):
                    stored(tensor)[...] = values


def train(model, optimizer, rank: int) -> tuple[list[float], list[str]]:
    norms, grads = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        with optimizer.no_sync():
            for micro in range(MICROBATCHES - 1):
                loss_of(model, step, micro, rank).backward()
        grads.append(bits_of([tensor.grad for tensor in model.parameters()]))  # later they may be sums of all ranks
        loss_of(model, step, MICROBATCHES - 1, rank).backward()
        optimizer.step()
        norms.append(optimizer.info().grad_norm)
    return norms, grads


def assert_same_state(optimizer, explicit, states) -> None:
    for index, param in enumerate(explicit.core.registered):
        ours = optimizer.core.find(param.name)
        for state in states:
            one, other = optimizer.core.get_state(ours, state), explicit.core.get_state(index, state)
            assert one.tobytes() == other.tobytes(), (param.name, state)


@on_ranks(1, 2, 3)
def test_hooks_give_the_bits_of_explicit_calls(comm, folder):
    """Gradients as torch adds those of microbatches, norms, moments and parameters."""
    start = made_model()
    explicit = Explicit(start, comm, max_grad_norm=0.5)
    with explicit.core:
        explicit.train()
        for way in WAYS:
            model = copy.deepcopy(start)
            with optimizer_of(groups_of(model), comm, module=model, max_grad_norm=0.5, **way) as optimizer:
                norms, grads = train(model, optimizer, comm.rank)
                optimizer.wait_params()
                assert norms == explicit.norms and min(norms) > 0.5
                assert grads == explicit.grads
                assert_same_state(optimizer, explicit, ["exp_avg", "exp_avg_sq"])
                for ours, theirs in zip(model.parameters(), explicit.model.parameters()):
                    assert same_bits(ours, theirs) and not same_bits(ours, start.get_parameter("0.weight"))


@on_ranks(2, 3)
def test_ranks_that_send_messages_give_the_bits_of_those_that_share_memory(comm, folder):
    """As on several machines."""
    found = set()
    for ranks_per_node in (0, 1):
        with zero1.Comm.world(ranks_per_node=ranks_per_node) as other:
            assert other.backend == ("exchange" if ranks_per_node else "node")
            for way in WAYS[:4]:
                model = made_model()
                with optimizer_of(groups_of(model), other, module=model, reduce_group=comm.world_size,
                                  **way) as optimizer:
                    norms, _ = train(model, optimizer, comm.rank)
                    optimizer.wait_params()
                    found.add((bits_of(model.parameters()), str(norms)))
    assert len(found) == 1


@on_ranks(1, 2)
def test_hooks_give_the_bits_of_explicit_calls_in_bf16(comm, folder):
    start = made_model(torch.bfloat16)
    explicit = Explicit(start, comm)
    with explicit.core:
        explicit.train()
        for way in ({}, {"overlap": False, "overlap_forward": True}):
            model = copy.deepcopy(start)
            with optimizer_of(groups_of(model), comm, module=model, **way) as optimizer:
                assert train(model, optimizer, comm.rank) == (explicit.norms, explicit.grads)
                optimizer.wait_params()
                assert bits_of(model.parameters()) == bits_of(explicit.model.parameters())
                assert_same_state(optimizer, explicit, ["master_param", "exp_avg", "exp_avg_sq"])


# ---- any number of ranks ----


class Part(torch.nn.Module):
    """Its gradient is whole numbers, so that sums are exact in any order."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, int(numpy.prod(shape))).reshape(shape))

    def forward(self, seed: int):
        random = torch.Generator().manual_seed(seed + self.weight.numel())
        return (self.weight * torch.randint(-8, 9, self.weight.shape, generator=random)).sum()


class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = torch.nn.ModuleList([Part(300, 3), Part(7), Part(1), Part(1000)])

    def forward(self, seed: int):
        return sum(part(seed) for part in self.parts)


@on_ranks(1, 2, 3)
def test_any_number_of_ranks_trains_to_the_same_bits(comm, folder):
    """Six microbatches a step are shared out."""
    found = set()
    for way in WAYS:
        model = Whole()
        with optimizer_of(model.named_parameters(), comm, module=model, grad_scale=1 / 6, max_grad_norm=10.0,
                          **way) as optimizer:
            for step in range(3):
                mine = range(6)[comm.rank::comm.world_size]
                for micro in mine:
                    with optimizer.no_sync() if micro != mine[-1] else torch.enable_grad():
                        model(10 * step + micro).backward()
                optimizer.step()
            optimizer.core.check_replicas()
            assert optimizer.info().clip_coef < 1
            found.add((bits_of(model.parameters()), optimizer.info().grad_norm))
    assert len(found) == 1
    return sorted(found)[0]
