"""The process that `profile` starts: a request in, an answer out, both JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile as torch_profile

from flyweight.checkpoints import load_any
from flyweight.evaluation.bench import Request
from flyweight.evaluation.bench_worker import MemoryProbe, Passes, answer_one, exercise, seconds
from flyweight.evaluation.profile import TRACED_TOKENS, ProfileRequest
from flyweight.evaluation.speed_choices import SEEN, check_attention, choices, kernels_of
from flyweight.model.kernels import MARK
from flyweight.model.step import MARK as STEP_MARK
from flyweight.records.profile import GroupTimes, OperatorTime, ProfileResult

_GROUPS = {
    "aten::addmm": "addmm",
    "aten::mm": "mm",
    "aten::bmm": "matmul",
    "aten::baddbmm": "matmul",
    "aten::addmv": "other_gemm",
    "aten::mv": "other_gemm",
    "aten::_int_mm": "other_gemm",
    "aten::_weight_int8pack_mm": "other_gemm",
    "aten::_weight_int4pack_mm_for_cpu": "other_gemm",
    "aten::mkldnn_linear": "other_gemm",
    "mkldnn::_linear_pointwise": "other_gemm",
    "bitsandbytes::gemm_4bit": "other_gemm",
    MARK: "other_gemm",
    **dict.fromkeys(SEEN, "attention"),
    STEP_MARK: "step",
}


def measure(request: ProfileRequest) -> ProfileResult:
    """Load the model, generate twice unseen, the second time by the clock, then once profiled."""
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    device = torch.device(request.device)
    memory = MemoryProbe(device)
    with choices(
        device, request.precision, request.attention, request.engine, marked=True
    ) as engine:
        exercise(_asked(request, request.new_tokens), device)
        memory.start()
        model = load_any.load(Path(request.folder), device).eval()
        whole = _passes(model, request, request.new_tokens)
        whole.answer()
        taken = seconds(whole.answer, device)
        memory.look()
        peak = memory.peak()
        with torch_profile(activities=_activities(device)) as profiler:
            whole.answer()
        events = profiler.key_averages()
        kernel = kernels_of(event.key for event in events)
        check_attention(request.attention, kernel)
        few = _passes(model, request, min(request.new_tokens, TRACED_TOKENS))
        with torch_profile(activities=_activities(device)) as traced:
            few.answer()
        traced.export_chrome_trace(request.trace)
    operators = sorted(_operators(events), key=lambda each: -(each.device_ms or each.self_ms))
    return ProfileResult(
        operators=tuple(operators),
        groups=_groups(operators, device),
        cpu_ms=sum(each.self_ms for each in operators),
        device_ms=sum(each.device_ms for each in operators),
        generate_ms=taken * 1e3,
        peak_bytes=peak,
        tokens=request.new_tokens,
        prompt=request.prompt,
        kernel=kernel,
        attention=request.attention,
        engine=engine,
        precision=request.precision,
        device=request.device,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def _passes(model: load_any.AnyModel, request: ProfileRequest, tokens: int) -> Passes:
    return Passes(model, _asked(request, tokens), torch.device(request.device))


def _asked(request: ProfileRequest, tokens: int) -> Request:
    return Request(
        folder=request.folder,
        batch=1,
        prompt=request.prompt,
        new_tokens=tokens,
        repeats=1,
        device=request.device,
        precision=request.precision,
        threads=request.threads,
        generate_tokens=tokens,
    )


def _activities(device: torch.device) -> list[ProfilerActivity]:
    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    return kinds


def _operators(events: Iterable[FunctionEventAvg]) -> Iterable[OperatorTime]:
    for event in events:
        yield OperatorTime(
            name=str(event.key),
            calls=event.count,
            self_ms=event.self_cpu_time_total / 1e3,
            device_ms=event.self_device_time_total / 1e3,
        )


def _groups(operators: Iterable[OperatorTime], device: torch.device) -> GroupTimes:
    times = dict.fromkeys(GroupTimes.model_fields, 0.0)
    for each in operators:
        if each.name in _GROUPS:
            times[_GROUPS[each.name]] += each.self_ms if device.type == "cpu" else each.device_ms
    return GroupTimes(**times)


def main() -> int:
    """Answer one request of `profile`."""
    return answer_one(_answer)


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    return measure(ProfileRequest(**asked)).to_metrics()


if __name__ == "__main__":
    sys.exit(main())
