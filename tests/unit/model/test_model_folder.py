import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flyweight.config.schema import ModelConfig
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.spec import flops


def decoder(**fields: Any) -> Decoder:
    return Decoder(
        ModelConfig.model_validate(
            {"vocab_size": 9, "context": 8, "dim": 16, "layers": 2, **fields}
        )
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder.save(decoder(), tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **tensors: torch.Tensor | None) -> None:
    merged = {**load_file(path / folder.WEIGHTS), **tensors}
    save_file(
        {name: tensor for name, tensor in merged.items() if tensor is not None},
        path / folder.WEIGHTS,
    )


def test_tied_weights_are_stored_once_and_untied_ones_twice(tmp_path: Path) -> None:
    for tied, count in ((True, 1), (False, 2)):
        model = decoder(embedding={"tied": tied})
        folder.save(model, tmp_path)
        stored = load_file(tmp_path / folder.WEIGHTS)
        assert sum(tensor.shape == (9, 16) for tensor in stored.values()) == count
        assert sum(tensor.nbytes for tensor in stored.values()) == flops.weight_bytes(model.config)


def test_config_json_says_everything(saved: Path) -> None:
    value = json.loads((saved / folder.CONFIG).read_text())
    assert value["mlp"] == {"kind": "swiglu", "hidden": 64, "bias": False, "rank": None}
    assert value["attention"]["heads"] == value["attention"]["kv_heads"] == 1
    assert folder.load_config(saved) == decoder().config


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_dtypes_come_back_as_they_were(dtype: torch.dtype, tmp_path: Path) -> None:
    model = decoder(linears={"embedding": "int8"}).to(dtype)
    folder.save(model, tmp_path)
    loaded, tokens = folder.load(tmp_path), torch.arange(8)[None]
    assert loaded.embedding.tokens.rows(tokens).dtype == dtype
    assert torch.equal(loaded(tokens), model(tokens))


def test_a_loaded_model_trains_and_can_be_saved_over_itself(saved: Path) -> None:
    model = folder.load(saved)
    model(torch.arange(8)[None]).sum().backward()
    with torch.no_grad():
        model.norm.weight.fill_(2.0)
    folder.save(model, saved)
    assert folder.load(saved).norm.weight.eq(2).all()
    assert {path.name for path in saved.iterdir()} == {folder.CONFIG, folder.WEIGHTS}


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_named(saved: Path, keep: int) -> None:
    path = saved / folder.WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        FlyweightError,
        match=rf"{folder.WEIGHTS}: damaged or truncated .*copy or save the model again",
    ):
        folder.load(saved)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"dim": 16',
        "[1]",
        "null",
        '{"dim": "wide"}',
        '{"dim": 16, "layers": 2, "colour": 1}',
    ],
)
def test_a_damaged_config_is_named(saved: Path, text: str) -> None:
    (saved / folder.CONFIG).write_text(text)
    with pytest.raises(FlyweightError, match=rf"{folder.CONFIG}: .*save the model again"):
        folder.load(saved)


def test_a_config_in_no_known_encoding_is_damaged(saved: Path) -> None:
    (saved / folder.CONFIG).write_bytes(b'{"dim": "\xff"}')
    with pytest.raises(FlyweightError, match="damaged"):
        folder.load(saved)


def test_what_is_no_model_folder_is_a_wrong_request(saved: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path, saved / folder.CONFIG):
        with pytest.raises(RequestError, match="not a model folder"):
            folder.load(path)
    (saved / folder.WEIGHTS).unlink()
    with pytest.raises(RequestError, match=rf"{folder.WEIGHTS} is missing"):
        folder.load(saved)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"norm.weight": None}, r"norm\.weight is missing"),
        ({"norm.bias": torch.zeros(16)}, r"norm\.bias is unexpected"),
        ({"norm.weight": torch.zeros(17)}, r"norm\.weight has shape \(17,\) instead of \(16,\)"),
        (
            {"norm.weight": torch.zeros(16, dtype=torch.int32)},
            r"norm\.weight has dtype torch\.int32",
        ),
        (
            {"norm.weight": torch.zeros(16).half()},
            r"parameters of several dtypes \(torch\.float16, torch\.float32\)",
        ),
    ],
)
def test_any_misfit_is_refused(
    saved: Path, tensor: dict[str, torch.Tensor | None], message: str
) -> None:
    change(saved, **tensor)
    with pytest.raises(FlyweightError, match=message):
        folder.load(saved)


def test_packed_tensors_keep_their_dtype(tmp_path: Path) -> None:
    folder.save(decoder(linears={"*": "int8"}), tmp_path)
    name = "embedding.tokens.scales"
    change(tmp_path, **{name: load_file(tmp_path / folder.WEIGHTS)[name].float()})
    with pytest.raises(
        FlyweightError, match=rf"{name} has dtype torch\.float32 instead of torch\.bfloat16"
    ):
        folder.load(tmp_path)


def test_many_misfits_are_counted(saved: Path) -> None:
    value = json.loads((saved / folder.CONFIG).read_text())
    (saved / folder.CONFIG).write_text(json.dumps({**value, "layers": 4}))
    with pytest.raises(FlyweightError, match=r"is missing; and \d+ more; save the model again"):
        folder.load(saved)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlyweightError, match="could not be written"):
        folder.save(decoder(), tmp_path / "file")


def test_files_have_the_modes_of_new_files_and_replace_links(tmp_path, elsewhere):
    (tmp_path / "out").mkdir()
    for name in (
        folder.CONFIG,
        folder.WEIGHTS,
        f"{folder.CONFIG}.partial",
        f"{folder.WEIGHTS}.partial",
    ):
        (tmp_path / "out" / name).symlink_to(elsewhere / "file")
    folder.save(decoder(), tmp_path / "out")
    (tmp_path / "new").touch()
    assert {path.lstat().st_mode for path in (tmp_path / "out").iterdir()} == {
        (tmp_path / "new").stat().st_mode
    }


def test_codes_that_lie_badly_are_copied_with_all_others_so_that_the_file_is_let_go():
    odd = torch.zeros(200, dtype=torch.int8)
    offset = -odd.data_ptr() % 64 + 8
    tensors = {"a.codes": odd[offset : offset + 16], "norm": torch.ones(3)}
    copied = folder._aligned(tensors)
    assert all(copied[name].data_ptr() != tensor.data_ptr() for name, tensor in tensors.items())
    assert all(torch.equal(copied[name], tensor) for name, tensor in tensors.items())
    assert copied["a.codes"].data_ptr() % 64 == 0
    even = {"a.codes": torch.zeros(64, dtype=torch.int8), "norm": torch.ones(3)}
    assert folder._aligned(even) is even
