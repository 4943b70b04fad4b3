"""20 steps of AdamW, two groups, with clipping, against torch.optim.AdamW and clip_grad_norm_.

Through ctypes, on the library that ZERO1_LIBRARY names; one rank, since the number of ranks makes
no difference (test_promise.c)."""

import ctypes
import os

import pytest

torch = pytest.importorskip("torch")

SIZES = [1000, 1, 257, 5000, 7]  # in two groups, in turn
STEPS = 20
MAX_NORM = 3.0
GROUPS = [
    dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
    dict(lr=2e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0),
]


class Group(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("lr", ctypes.c_double),
        ("beta1", ctypes.c_double),
        ("beta2", ctypes.c_double),
        ("eps", ctypes.c_double),
        ("weight_decay", ctypes.c_double),
        ("decoupled_weight_decay", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]


class Config(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("version", ctypes.c_uint32),
        ("param_dtype", ctypes.c_int32),
        ("grad_dtype", ctypes.c_int32),
        ("share_params", ctypes.c_int32),
        ("bucket_numel", ctypes.c_int64),
        ("reduce_group", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("overlap", ctypes.c_int32),
        ("guard", ctypes.c_int32),
        ("grad_scale", ctypes.c_double),
        ("max_grad_norm", ctypes.c_double),
        ("skip_grad_norm", ctypes.c_double),
        ("timeout_seconds", ctypes.c_double),
        ("groups", ctypes.POINTER(Group)),
        ("group_bytes", ctypes.c_size_t),
        ("group_count", ctypes.c_int64),
        ("agree_comm", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    ]


class ParamSpec(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("ndim", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class Info(ctypes.Structure):
    _fields_ = (
        [("size", ctypes.c_size_t), ("count", ctypes.c_int64), ("attempts", ctypes.c_int64)]
        + [("grad_norm", ctypes.c_double), ("clip_coef", ctypes.c_double)]
        + [("skipped", ctypes.c_int32), ("skip_reason", ctypes.c_int32)]
        + [("nonfinite_numel", ctypes.c_int64), ("bad_param", ctypes.c_int64)]
        + [("bad_rank", ctypes.c_int32), ("reserved", ctypes.c_int32)]
        + [(stage + "_ms", ctypes.c_double)
           for stage in ("exchange", "reduce", "agree", "update", "gather", "exposed")]
    )


def handle(call, *arguments):
    """Calls what fills in a handle as its last argument."""
    made = ctypes.c_void_p()
    assert call(*arguments, ctypes.byref(made)) == 0
    return made


class Trained:
    """One optimizer of the library on one rank, its tensors seen through torch."""

    def __init__(self, library):
        self.library = library
        self.comm = handle(library.zero1_comm_create_self, None)
        groups = (Group * len(GROUPS))()
        size = ctypes.c_size_t(ctypes.sizeof(Group))
        for group, values in zip(groups, GROUPS):
            assert library.zero1_group_init(ctypes.byref(group), size) == 0
            group.lr, group.eps = values["lr"], values["eps"]
            group.beta1, group.beta2 = values["betas"]
            group.weight_decay = values["weight_decay"]
        config = Config()
        size = ctypes.c_size_t(ctypes.sizeof(Config))
        assert library.zero1_config_init(ctypes.byref(config), size) == 0
        config.groups, config.group_count = groups, len(GROUPS)
        config.max_grad_norm = MAX_NORM
        config.bucket_numel = 1024
        specs = (ParamSpec * len(SIZES))()
        for i, (spec, numel) in enumerate(zip(specs, SIZES)):
            spec.name = b"p%d" % i
            spec.shape = (ctypes.c_int64 * 1)(numel)
            spec.ndim, spec.group = 1, i % len(GROUPS)
        self.optimizer = handle(
            library.zero1_optimizer_create, self.comm, ctypes.byref(config), specs,
            ctypes.c_size_t(ctypes.sizeof(ParamSpec)), ctypes.c_int64(len(SIZES)))

    def tensor(self, call, index):
        address = handle(call, self.optimizer, ctypes.c_int64(index)).value
        array = (ctypes.c_float * SIZES[index]).from_address(address)
        return torch.frombuffer(array, dtype=torch.float32)

    def param(self, index):
        return self.tensor(self.library.zero1_optimizer_param, index)

    def sync_params(self):
        assert self.library.zero1_optimizer_sync_params(self.optimizer, 0) == 0

    def step(self, grads):
        info = Info()
        for i, grad in enumerate(grads):
            index = ctypes.c_int64(i)
            self.tensor(self.library.zero1_optimizer_grad, i).copy_(grad)
            assert self.library.zero1_optimizer_grad_ready(self.optimizer, index, None) == 0
        assert self.library.zero1_optimizer_step(self.optimizer) == 0
        size = ctypes.c_size_t(ctypes.sizeof(Info))
        assert self.library.zero1_optimizer_info(self.optimizer, ctypes.byref(info), size) == 0
        assert not info.skipped
        return info

    def close(self):
        self.library.zero1_optimizer_destroy(ctypes.byref(self.optimizer))
        self.library.zero1_comm_destroy(ctypes.byref(self.comm))


@pytest.fixture
def trained():
    if "ZERO1_LIBRARY" not in os.environ:
        pytest.skip("ZERO1_LIBRARY names no library")
    made = Trained(ctypes.CDLL(os.environ["ZERO1_LIBRARY"]))
    yield made
    made.close()


def test_twenty_clipped_steps_of_adamw_agree_with_torch(trained):
    random = torch.Generator().manual_seed(1)
    params = [torch.nn.Parameter(torch.randn(n, generator=random)) for n in SIZES]
    for i, param in enumerate(params):
        trained.param(i).copy_(param.detach())
    trained.sync_params()
    reference = torch.optim.AdamW(
        [dict(values, params=params[g :: len(GROUPS)]) for g, values in enumerate(GROUPS)],
        foreach=False)
    clipped = 0
    for step in range(STEPS):
        grads = [torch.randn(n, generator=random) * (0.1, 0.01)[step % 2] for n in SIZES]
        for param, grad in zip(params, grads):
            param.grad = grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(params, MAX_NORM).item()
        reference.step()
        info = trained.step(grads)
        clipped += info.clip_coef < 1
        assert info.count == step + 1
        assert info.grad_norm == pytest.approx(norm, rel=1e-6)
        for i, param in enumerate(params):
            # relative to the largest: where a step takes a parameter through zero, what is left of
            # it is the rounding of numbers of that size
            scale = param.detach().abs().max()
            assert (trained.param(i) - param.detach()).abs().max() <= 1e-6 * scale
    assert 0 < clipped < STEPS
