"""The structs of include/zero1/*.h; tests/test_python_structs.py compares sizes and offsets with C."""

from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

from ._arguments import Struct


def fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class Pair(Struct):
    _fields_ = fields(c_char_p, "key value")


class CommOptions(Struct):
    _fields_ = [("size", c_size_t), ("ranks_per_node", c_int32), ("ordered", c_int32),
                ("workspace_bytes", c_int64), ("timeout_seconds", c_double), ("error_text", c_void_p),
                ("error_bytes", c_size_t)]


class Group(Struct):
    _fields_ = [("size", c_size_t), *fields(c_double, "lr beta1 beta2 eps weight_decay"),
                *fields(c_int32, "decoupled_weight_decay reserved")]


class Config(Struct):
    _fields_ = [("size", c_size_t), ("version", c_uint32),
                *fields(c_int32, "param_dtype grad_dtype share_params"), ("bucket_numel", c_int64),
                *fields(c_int32, "reduce_group threads overlap guard"),
                *fields(c_double, "grad_scale max_grad_norm skip_grad_norm timeout_seconds"),
                ("groups", POINTER(Group)), ("group_bytes", c_size_t), ("group_count", c_int64),
                ("agree_comm", c_void_p), ("stream", c_void_p), *fields(c_int32, "device device_index"),
                ("offload", c_double),
                *fields(c_int32, "find_culprit grad_wire_dtype param_wire_dtype reserved")]


class ParamSpec(Struct):
    _fields_ = [("name", c_char_p), ("shape", POINTER(c_int64)), *fields(c_int32, "ndim group"),
                *fields(c_uint32, "flags reserved")]


class Info(Struct):
    _fields_ = [("size", c_size_t), *fields(c_int64, "count attempts"),
                *fields(c_double, "grad_norm clip_coef"), *fields(c_int32, "skipped skip_reason"),
                *fields(c_int64, "nonfinite_numel bad_param"), *fields(c_int32, "bad_rank reserved"),
                *fields(c_double, "exchange_ms reduce_ms agree_ms update_ms gather_ms exposed_ms"),
                ("sent_bytes", c_int64)]


class Owned(Struct):
    _fields_ = [("size", c_size_t), *fields(c_int64, "param begin end"),
                *fields(c_void_p, "master_param exp_avg exp_avg_sq"), *fields(c_int32, "on_host reserved")]


class Memory(Struct):
    _fields_ = [("size", c_size_t),
                *fields(c_uint64, "params_bytes grads_bytes grad_shard_bytes master_bytes exp_avg_bytes "
                        "exp_avg_sq_bytes workspace_bytes total_bytes padding_bytes residual_bytes")]


class SaveOptions(Struct):
    _fields_ = [("size", c_size_t), *fields(c_int32, "mode no_lock"),
                *fields(c_int64, "keep_last keep_every"), ("metadata", POINTER(Pair)),
                ("metadata_count", c_int64), ("rank_metadata", POINTER(Pair)),
                ("rank_metadata_count", c_int64)]


class SaveReport(Struct):
    _fields_ = [("size", c_size_t), ("count", c_int64), *fields(c_uint64, "bytes snapshot_bytes"),
                *fields(c_double, "call_ms copy_ms write_ms hash_ms stall_ms commit_ms")]


class LoadOptions(Struct):
    _fields_ = [("size", c_size_t), *fields(c_int32, "weights_only keep_hyper allow_dtype_change reserved"),
                *fields(c_char_p, "allow_missing allow_extra")]


class ExportOptions(Struct):
    _fields_ = [("size", c_size_t), *fields(c_int32, "state rank dtype force"), ("max_bytes", c_int64)]


class CheckpointInfo(Struct):
    _fields_ = [("size", c_size_t), ("path", c_char_p), *fields(c_int64, "count attempts"),
                *fields(c_int32, "world_size param_dtype format_version has_residual"),
                *fields(c_int64, "param_count group_count file_count metadata_count"), ("bytes", c_uint64),
                *fields(c_double, "grad_scale max_grad_norm skip_grad_norm")]


#: The struct of the headers, by its name there.
BY_NAME: dict[str, type[Struct]] = {
    "zero1_pair": Pair, "zero1_comm_options": CommOptions, "zero1_group": Group, "zero1_config": Config,
    "zero1_param_spec": ParamSpec, "zero1_info": Info, "zero1_owned": Owned, "zero1_memory": Memory,
    "zero1_save_options": SaveOptions, "zero1_save_report": SaveReport, "zero1_load_options": LoadOptions,
    "zero1_export_options": ExportOptions, "zero1_checkpoint_info": CheckpointInfo}
