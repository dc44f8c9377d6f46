import gzip
import json
from pathlib import Path

import pytest

from flyweight.config import schema
from flyweight.errors import RequestError
from flyweight.evaluation import profile_worker
from flyweight.evaluation.profile import ProfileRequest, profile
from flyweight.model import folder
from flyweight.model.build import build
from flyweight.records.profile import ProfileResult

ASKED = schema.Profile(stage="profile", input="model", prompt=8, new_tokens=6)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    fields = {"vocab_size": 64, "context": 32, "dim": 16, "layers": 2, "attention": {"heads": 1}}
    folder.save(build(schema.ModelConfig.model_validate(fields)), place)
    return place


def measured(place: Path, trace: Path, **changes: object) -> ProfileResult:
    fields = {
        "folder": str(place),
        "prompt": 8,
        "new_tokens": 6,
        "device": "cpu",
        "precision": "fp32",
        "attention": "auto",
        "engine": "eager",
        "threads": None,
        "trace": str(trace),
        **changes,
    }
    return profile_worker.measure(ProfileRequest(**fields))  # pyright: ignore[reportArgumentType]


def test_operators_are_counted_and_summed(place: Path, tmp_path: Path) -> None:
    found = measured(place, tmp_path / "trace.json.gz")
    calls = {each.name: each.calls for each in found.operators}
    assert calls["aten::_scaled_dot_product_flash_attention_for_cpu"] == 2 * 6
    assert (found.kernel, found.tokens, found.prompt) == ("flash", 6, 8)
    assert found.cpu_ms == pytest.approx(sum(each.self_ms for each in found.operators))
    spent = [each.self_ms for each in found.operators]
    assert spent == sorted(spent, reverse=True)
    assert found.groups.attention > 0 and found.groups.mm > 0
    assert sum(found.groups.model_dump().values()) < found.cpu_ms
    assert ProfileResult.from_metrics(found.to_metrics()) == found


def test_written_out_attention_is_seen_as_such(place: Path, tmp_path: Path) -> None:
    found = measured(place, tmp_path / "trace.json.gz", attention="eager")
    assert found.kernel == "eager"
    assert found.groups.matmul > 0


def test_a_fresh_process_writes_a_trace_of_the_first_tokens(place: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json.gz"
    eager = ASKED.model_copy(update={"engine": "eager"})
    found = profile(place, eager, "cpu", 1, trace)
    assert found.threads == 1
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    seen = [event for event in events if "flash_attention_for_cpu" in event.get("name", "")]
    assert len(seen) == 2 * 4


def test_compiled_products_are_seen(place: Path, tmp_path: Path) -> None:
    found = measured(place, tmp_path / "trace.json.gz", engine="auto")
    calls = {each.name: each.calls for each in found.operators}
    if found.engine == "compiled":
        assert calls["flyweight::compiled_product"] == 2 * 7 + 6  # the prompt's 8 rows, heads
        assert calls["flyweight::compiled_step"] == 5
        assert found.groups.other_gemm > 0 and found.groups.step > 0
        assert found.kernel == "compiled, flash"


def test_an_attention_that_is_asked_for_leaves_no_step(place: Path, tmp_path: Path) -> None:
    found = measured(place, tmp_path / "trace.json.gz", engine="auto", attention="math")
    assert found.kernel == "math"
    assert found.groups.step == 0


def test_float16_on_a_processor_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="fp16 needs a GPU"):
        profile(place, ASKED.model_copy(update={"precision": "fp16"}), "cpu", 1, tmp_path / "t.gz")
