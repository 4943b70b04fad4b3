"""Runs the bench_kernels that it is given, with its options and few parameters, and checks what it
writes."""

import json
import math
import subprocess
import sys
import tempfile

SMALL = ["--numel", "100003", "--tensors", "7", "--steps", "3", "--warmup", "1"]
SKIP = 77
# bytes read and written per parameter
BYTES = {
    "reduce_fp32_1": 4, "reduce_fp32_2": 8 + 4, "reduce_fp32_4": 16 + 4,
    "reduce_bf16_1": 2, "reduce_bf16_2": 4 + 4, "reduce_bf16_4": 8 + 4,
    "update_fp32_fp32": 4 + 24, "update_bf16_fp32": 4 + 24 + 2, "update_bf16_bf16": 2 + 24 + 2,
    "one_pass_fp32_fp32": 4 + 24, "one_pass_bf16_fp32": 4 + 24 + 2,
    "one_pass_bf16_bf16": 2 + 24 + 2,
    "two_passes_fp32_fp32": 2 * 4 + 24, "two_passes_bf16_fp32": 2 * 4 + 24 + 2,
    "two_passes_bf16_bf16": 2 * 2 + 24 + 2,
}  # yapf: disable


def check_cases(result: dict) -> None:
    assert {case["name"]: case["bytes_per_param"] for case in result["cases"]} == BYTES
    for case in result["cases"]:
        assert 0 < case["ms_q1"] <= case["ms"] <= case["ms_q3"], case
        gbps = case["bytes_per_param"] * result["numel"] / case["ms"] * 1e-6
        assert math.isclose(case["gbps"], gbps, rel_tol=1e-4), case
        assert case["of_copy"] > 0, case


def check_shapes(result: dict) -> None:
    whole, one, many = result["shapes"]
    assert (whole["tensors"], one["tensors"], many["tensors"]) == (1, 1, 7)
    assert whole["launches"] == 2 and whole["bucket_numel"] == 0
    assert one["launches"] == many["launches"], "launches do not depend on the number of tensors"


def main() -> int:
    command = [*sys.argv[1:], *SMALL]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        ended = subprocess.run([*command, "--json", file.name], check=False)
        if ended.returncode == SKIP:
            return SKIP
        ended.check_returncode()
        result = json.load(open(file.name, encoding="utf-8"))
        check_cases(result)
        check_shapes(result)
        assert all(case["launches"] == (2 if case["name"].startswith("two") else 1)
                   for case in result["cases"])

        # 391 blocks in buckets of 4
        subprocess.run([*command, "--bucket-numel", "1Ki", "--json", file.name], check=True)
        result = json.load(open(file.name, encoding="utf-8"))
        check_cases(result)
        assert result["cases"][0]["launches"] == 98

        subprocess.run(
            [*command, "--case", "update_bf16_bf16", "--threads", "2", "--json", file.name],
            check=True)
        result = json.load(open(file.name, encoding="utf-8"))
        assert [case["name"] for case in result["cases"]] == ["update_bf16_bf16"], result["cases"]
        assert result["threads"] == 2

    refused = subprocess.run([*command, "--case", "updat"], capture_output=True, text=True)
    assert refused.returncode == 2 and "--case: 'updat'" in refused.stderr, refused.stderr
    refused = subprocess.run([*command, "--device", "abacus"], capture_output=True, text=True)
    assert refused.returncode == 2 and "--device: 'abacus'" in refused.stderr, refused.stderr
    return 0


sys.exit(main())
