"""The sweeps of growth.py: what is varied, over which values, and what counts of bytes predict."""

import dataclasses

SUFFIXES = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
DTYPE_BYTES = {"fp32": 4, "bf16": 2}


def whole(text: str) -> int:
    """4Mi -> 4194304."""
    factor = SUFFIXES.get(text[-2:], 1)
    return int(text[:-2] if factor > 1 else text) * factor


def short(number: int) -> str:
    """4194304 -> 4Mi; 100000 -> 100,000."""
    for suffix, factor in reversed(SUFFIXES.items()):
        if number >= factor and number % factor == 0:
            return f"{number // factor}{suffix}"
    return f"{number:,}"


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of bench_step."""

    numel: int = 1 << 25
    tensors: int = 1
    ranks: int = 2
    threads: int = 1  # a rank's
    bucket_numel: int = 0  # 0: the library's default
    dtype: str = "fp32"  # of parameters and gradients
    clip: bool = True  # clipping and guard: two passes
    private_params: bool = False

    def options(self) -> list[str]:
        """Of bench_step."""
        options = ["--numel", str(self.numel), "--tensors", str(self.tensors),
                   "--threads", str(self.threads), "--clip", str(int(self.clip)),
                   "--bucket-numel", str(self.bucket_numel),
                   "--param-dtype", self.dtype, "--grad-dtype", self.dtype]
        return options + (["--private-params"] if self.private_params else [])

    def bytes_per_param(self) -> int:
        """Read and written by a step, all ranks of one machine together, through each one's memory.

        d contributions of g bytes are read; the update reads and rewrites master_param, exp_avg
        and exp_avg_sq, 24 bytes, and writes a bf16 parameter, 2. Two passes also write and read
        the sums, 4 bytes each, but for two cases: one rank's fp32 gradients are their own sum, and
        16-bit contributions of up to 8 bytes together are read again instead."""
        grads = self.ranks * DTYPE_BYTES[self.dtype]
        update = 24 + (2 if self.dtype == "bf16" else 0)
        if not self.clip:
            return grads + update
        if self.dtype == "bf16" and grads <= 8:
            return 2 * grads + update
        write_sum = 4 if self.ranks > 1 or self.dtype == "bf16" else 0
        return grads + write_sum + 4 + update

    def padded_numel(self) -> int:
        """Elements with the holes after each tensor: it starts on a block of 256."""
        each, more = divmod(self.numel, self.tensors)
        blocks = more * -(-(each + 1) // 256) + (self.tensors - more) * -(-each // 256)
        return 256 * blocks

    def memory_bytes(self) -> int:
        """Of all ranks together: parameters (once), gradients, masters and moments."""
        each = DTYPE_BYTES[self.dtype]
        copies = self.ranks if self.private_params else 1
        master = 0 if self.dtype == "fp32" else 4
        return self.padded_numel() * (copies * each + self.ranks * each + master + 8)


@dataclasses.dataclass(frozen=True)
class Series:
    """Points of one line of a plot."""

    name: str
    base: Point
    values: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One field of Point, varied; `creates` are asked of each run."""

    name: str
    field: str
    label: str  # of the axis
    series: tuple[Series, ...]
    creates: int = 1

    def points(self) -> list[tuple[str, int, Point]]:
        """(series, value, point)."""
        return [(series.name, value, dataclasses.replace(series.base, **{self.field: value}))
                for series in self.series for value in series.values]


def values(text: str) -> tuple[int, ...]:
    return tuple(whole(value) for value in text.split())


def sweeps(quick: bool) -> list[Sweep]:
    """All of them; `quick`: few and small points, to see that all of it works."""
    base = Point(numel=1 << 18) if quick else Point()
    one_pass = dataclasses.replace(base, clip=False)
    bf16 = dataclasses.replace(base, dtype="bf16")
    private = dataclasses.replace(base, private_params=True)
    one_rank = dataclasses.replace(base, ranks=1)
    many = dataclasses.replace(base, numel=32_000 if quick else 32_000_000)
    many_one_pass = dataclasses.replace(many, clip=False)
    tensors = values("1 1000" if quick else "1 100 1000 10000 30000 100000 300000 1000000")
    numel = values("64Ki 256Ki" if quick else "1Mi 4Mi 16Mi 64Mi 256Mi")
    largest = () if quick else (1 << 29, 1 << 30)
    ranks = values("1 4" if quick else "1 2 4 8 16")
    threads = values("1 2" if quick else "1 2 4")
    buckets = values("16Ki 256Ki" if quick else "16Ki 64Ki 256Ki 1Mi 2Mi 4Mi 8Mi 32Mi")
    return [
        Sweep("tensors", "tensors", "tensors of 32,000,000 elements together",
              (Series("two passes", many, tensors), Series("one pass", many_one_pass, tensors)),
              creates=3),
        Sweep("numel", "numel", "parameters",
              (Series("fp32", base, numel + largest[:1]),
               Series("bf16", bf16, numel + largest[1:])), creates=3),
        Sweep("ranks", "ranks", "ranks, one thread each",
              (Series("two passes", base, ranks), Series("one pass", one_pass, ranks[1:]))),
        Sweep("threads", "threads", "threads of each rank",
              (Series("1 rank", one_rank, threads), Series("2 ranks", base, threads[1:]))),
        Sweep("bucket_numel", "bucket_numel", "elements of a bucket",
              (Series("two passes", base, buckets), Series("one pass", one_pass, buckets[1:]),
               Series("private parameters", private, buckets[1:]))),
    ]
