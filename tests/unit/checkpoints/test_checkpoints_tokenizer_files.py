"""The tokenizer of a checkpoint is the one that transformers builds, or the import is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

from flyweight.checkpoints import read, template_files, tokenizer_files
from flyweight.checkpoints.fetch import imported
from flyweight.config import schema
from flyweight.data.tokenizer import Tokenizer
from flyweight.decode import chat_template
from flyweight.errors import FlyweightError, RequestError
from flyweight.formats import hf
from flyweight.pipeline import texts
from flyweight.store.artifact import Artifact, Store

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("1", "2"), ("Ã", "©"), ("\u010a", "\u010a")]
VOCAB = {text: at for at, text in enumerate([*LETTERS, *("".join(pair) for pair in MERGES)])}
SIZE = len(VOCAB)
FLAGS = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def listed(*words: str) -> dict[str, dict[str, Any]]:
    return {str(SIZE + at): {"content": word, **FLAGS} for at, word in enumerate(words)}


def raw(*words: str, **parts: Any) -> dict[str, Any]:
    added = [{"id": SIZE + at, "content": word, **FLAGS} for at, word in enumerate(words)]
    model = {"type": "BPE", "vocab": VOCAB, "merges": [list(pair) for pair in MERGES]}
    found = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": BYTES,
        "decoder": BYTES,
        "model": model,
    }
    return {
        **found,
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "post_processor": None,
        **parts,
    }


def begins(word: str, at: int) -> dict[str, Any]:
    single = [{"SpecialToken": {"id": word, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    ids = {word: {"id": word, "ids": [at], "tokens": [word]}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids}


def write(folder: Path, files: dict[str, Any]) -> read.Checkpoint:
    """Write a folder's files, and the older vocabulary where `vocab.json` is True."""
    folder.mkdir(exist_ok=True)
    save_file({"weight": torch.ones(1)}, folder / "model.safetensors")
    files = {"config.json": {"model_type": "llama"}, **files}
    if files.pop("vocab.json", None):
        files |= {
            "vocab.json": VOCAB,
            "merges.txt": "#version: 0.2\n" + "\n".join(map(" ".join, MERGES)) + "\n",
        }
    for name, content in files.items():
        (folder / name).write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
    return read.read(folder)


def kept(folder: Path, files: dict[str, Any]) -> tuple[dict[str, Any], Tokenizer, Any]:
    """Return what is known of a folder's tokenizer, the one that was kept, and transformers' own."""
    source = write(folder / "in", files)
    (folder / "out").mkdir(exist_ok=True)
    tokenizer_files.keep_generation(source, folder / "out")
    found = tokenizer_files.keep(source, folder / "out")
    assert found is not None
    return (
        found,
        Tokenizer.load(folder / "out"),
        transformers.AutoTokenizer.from_pretrained(folder / "in"),
    )


QWEN = {
    "config.json": {"model_type": "qwen3"},
    "tokenizer_config.json": {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "added_tokens_decoder": listed("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "chat_template": CHAT,
    },
    "added_tokens.json": {"<|endoftext|>": SIZE, "<|im_start|>": SIZE + 1, "<|im_end|>": SIZE + 2},
}


@pytest.mark.parametrize("older", [True, False], ids=["vocab and merges", "tokenizer.json"])
def test_qwens_class_normalizes_splits_digits_and_adds_the_listed_tokens(
    older: bool, tmp_path: Path
) -> None:
    own = {"vocab.json": True} if older else {"tokenizer.json": raw("<|endoftext|>")}
    known, ours, theirs = kept(tmp_path, {**QWEN, **own})
    assert known["class"] == "Qwen2Tokenizer" and known["compared"] > len(tokenizer_files.TEXTS)
    assert known["rebuilt"] == ([] if older else ["normalizer", "pre_tokenizer", "added_tokens"])
    assert ours.encode("e\u0301") == ours.encode("é") == [VOCAB["Ã©"]]
    assert (
        ours.encode("12 the")
        == [VOCAB["1"], VOCAB["2"], VOCAB["Ġthe"]]
        == theirs("12 the")["input_ids"]
    )
    assert ours.encode_marked("<|im_end|>") == [SIZE + 2] and len(ours.encode("<|im_end|>")) > 1
    assert (ours.declared.bos, ours.declared.ends, ours.pad) == (None, (SIZE + 2,), SIZE)
    assert not (tmp_path / "out" / "added_tokens.json").exists()


def test_gpt2s_class_has_its_own_end_and_joins_digits(tmp_path: Path) -> None:
    known, ours, theirs = kept(
        tmp_path, {"config.json": {"model_type": "gpt2"}, "vocab.json": True}
    )
    assert known["class"] == "GPT2Tokenizer"
    assert ours.encode("12 the") == [VOCAB["12"], VOCAB["Ġthe"]] == theirs("12 the")["input_ids"]
    assert ours.encode("e\u0301") != ours.encode("é")
    assert (
        ours.words == {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": None}
        and ours.separator == SIZE
    )


def test_opts_begin_token_stands_before_each_text(tmp_path: Path) -> None:
    fields = {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "</s>",
        "eos_token": "</s>",
        "add_bos_token": True,
    }
    config = {"model_type": "opt", "bos_token_id": 2, "eos_token_id": 2}
    files = {"config.json": config, "tokenizer_config.json": fields, "vocab.json": True}
    _, ours, theirs = kept(tmp_path, files)
    assert ours.encode("the") == theirs("the")["input_ids"] and ours.begin == (theirs.bos_token_id,)
    assert ours.declared.ends == (theirs.eos_token_id, 2)


def test_a_tokenizer_json_that_says_it_all_is_kept_to_the_byte(tmp_path: Path) -> None:
    text = json.dumps(raw("<s>", post_processor=begins("<s>", SIZE)), indent=3)
    fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "add_bos_token": False,
    }
    known, ours, theirs = kept(tmp_path, {"tokenizer.json": text, "tokenizer_config.json": fields})
    assert (tmp_path / "out" / "tokenizer.json").read_text() == text and known["rebuilt"] == []
    assert (
        ours.encode("a") == [SIZE, VOCAB["a"]] == theirs("a")["input_ids"]
    )  # the post-processor decides, not the flag


def test_special_tokens_of_the_older_map_are_named_and_reach_the_template(tmp_path: Path) -> None:
    files = {
        "tokenizer.json": raw("<b>", "<e>", post_processor=begins("<b>", SIZE)),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<e>",
            "chat_template": CHAT,
        },
        "special_tokens_map.json": {"bos_token": {"content": "<b>", **FLAGS}, "eos_token": "<e>"},
    }
    _, ours, theirs = kept(tmp_path, files)
    assert ours.words == {"bos": "<b>", "eos": "<e>", "pad": None}
    messages = [{"role": "user", "content": "hi"}]
    chat = chat_template.of(tmp_path / "out")
    assert chat and chat.render(messages) == "<b>[user]hi<e>" == theirs.apply_chat_template(
        messages, tokenize=False
    )


def test_the_older_map_does_not_count_beside_a_list_of_tokens(tmp_path: Path) -> None:
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": listed("<b>")}
    files = {
        "tokenizer.json": raw("<b>"),
        "tokenizer_config.json": fields,
        "special_tokens_map.json": {"bos_token": "<b>"},
    }
    _, ours, theirs = kept(tmp_path, files)
    assert theirs.bos_token is None and ours.declared.bos is None


def test_a_model_without_vocabulary_has_no_tokenizer(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in", {"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"}}
    )
    (tmp_path / "out").mkdir()
    assert tokenizer_files.keep(source, tmp_path / "out") is None and not list(
        (tmp_path / "out").iterdir()
    )


def refusal(folder: Path, files: dict[str, Any]) -> str:
    source = write(folder / "in", files)
    (folder / "out").mkdir(exist_ok=True)
    with pytest.raises(RequestError) as error:
        tokenizer_files.keep(source, folder / "out")
    return str(error.value)


def hide(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == hidden else find(name, *more),
    )


def test_sentencepiece_alone_needs_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "sentencepiece")
    files = {
        "tokenizer.model": "\n\x0bfake spm",
        "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"},
    }
    assert "pip install sentencepiece" in refusal(tmp_path, files)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer.json": "{}"}, "could not build its tokenizer"),
        (
            {
                "tokenizer.json": raw(),
                "tokenizer_config.json": {"tokenizer_class": "AutoModelForCausalLM"},
            },
            "not a tokenizer",
        ),
        (
            {
                "tokenizer.json": raw(),
                "tokenizer_config.json": {"tokenizer_class": "AutoProcessorFast"},
            },
            "not a tokenizer",
        ),
        (
            {"tokenizer.json": raw(), "tokenizer_config.json": {"tokenizer_class": 3}},
            "not a tokenizer",
        ),
        (
            {"vocab.json": True, "tokenizer_config.json": {"tokenizer_class": "CTRLTokenizer"}},
            "no tokenizer.json can hold",
        ),
        (
            {
                "tokenizer.json": raw(),
                "tokenizer_config.json": {"auto_map": {"AutoTokenizer": [None, "a.B"]}},
            },
            "asks for Python code of its own",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(files: dict[str, Any], words: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, files)
    assert (
        words in message
        and str(tmp_path / "in") in message
        and "tokenizer-" not in message.replace("tokenizer-files", "")
    )


def test_files_that_a_config_names_elsewhere_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("#version: 0.2\nh i\n")
    fields = {
        "tokenizer_class": "GPT2Tokenizer",
        "merges_file": str(tmp_path / "secret.txt"),
        "name_or_path": "/tmp/x",
    }
    files = {
        "config.json": {"model_type": "gpt2"},
        "tokenizer_config.json": fields,
        "vocab.json": True,
    }
    _, ours, _ = kept(tmp_path, files)
    assert ours.encode("the") == [VOCAB["t"], VOCAB["he"]]
    assert "secret" not in (tmp_path / "out" / "tokenizer_config.json").read_text()


@pytest.mark.parametrize("hidden", ["transformers", "nothing"])
def test_merges_that_are_dropped_by_chance_are_refused(
    hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, hidden)
    model = {**raw()["model"], "dropout": 1e-9}
    fields = {"tokenizer_class": "PreTrainedTokenizerFast"}
    message = refusal(
        tmp_path, {"tokenizer.json": raw(model=model), "tokenizer_config.json": fields}
    )
    assert "drops merges by chance (dropout: 1e-09)" in message


# --- chat templates ---

TEMPLATES = {
    "several in the config": {
        "chat_template": [{"name": "default", "template": CHAT}, {"name": "tool", "template": "T"}]
    },
    "a mapping in the config": {"chat_template": {"default": CHAT, "tool": "T"}},
    "no default": {"chat_template": [{"name": "tool", "template": "T"}]},
}


@pytest.mark.parametrize(
    "more", [{}, {"tool-2": "T2"}, {"default": "D{{ eos_token }}", "rag": "R"}], ids=len
)
@pytest.mark.parametrize("own", ["", "N{{ eos_token }}"], ids=["", "a file"])
@pytest.mark.parametrize("config", TEMPLATES)
def test_templates_are_those_that_transformers_reads(
    config: str, own: str, more: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "in" / "additional_chat_templates").mkdir(parents=True)
    for name, text in more.items():
        (tmp_path / "in" / "additional_chat_templates" / f"{name}.jinja").write_text(text)
    fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<e>",
        "bos_token": "<e>",
        **TEMPLATES[config],
    }
    files = {"tokenizer.json": raw("<e>"), "tokenizer_config.json": fields}
    _, _, theirs = kept(tmp_path, {**files, **({"chat_template.jinja": own} if own else {})})
    wanted = (
        theirs.chat_template
        if isinstance(theirs.chat_template, dict)
        else {"default": theirs.chat_template}
    )
    assert (
        template_files.sources(tmp_path / "out")
        == template_files.sources(tmp_path / "in")
        == wanted
    )
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.chat_template == theirs.chat_template
    chat = chat_template.of(tmp_path / "out")
    assert (chat and chat.source) == wanted.get("default")


def test_more_templates_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    before = write(tmp_path / "in", {"tokenizer.json": raw("<e>")}).fingerprint()
    (tmp_path / "in" / "additional_chat_templates").mkdir()
    (tmp_path / "in" / "additional_chat_templates" / "rag.jinja").write_text("R")
    assert read.read(tmp_path / "in").fingerprint() != before
    (tmp_path / "in" / "additional_chat_templates" / "out.jinja").symlink_to("/etc/hostname")
    with pytest.raises(RequestError, match=r"additional_chat_templates/out.jinja is a link"):
        read.read(tmp_path / "in")


# --- a folder as data.tokenizer.path ---


@pytest.mark.parametrize("hidden", ["transformers", "nothing"])
def test_a_folder_that_says_the_same_is_a_tokenizer(
    hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, hidden)
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<e>"}
    write(tmp_path / "in", {"tokenizer.json": raw("<e>"), "tokenizer_config.json": fields})
    tokenizer_files.check_folder(tmp_path / "in")
    (tmp_path / "in" / "config.json").unlink()
    tokenizer_files.check_folder(tmp_path / "in")
    (tmp_path / "in" / "tokenizer_config.json").unlink()
    tokenizer_files.check_folder(tmp_path / "in")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"}},
            "normalizer; pre_tokenizer",
        ),
        (
            {"special_tokens_map.json": {"eos_token": "<f>"}},
            r"added_tokens; ends, \(262,\) for \(263,\)",
        ),
        (
            {"tokenizer_config.json": {"add_eos_token": True, "eos_token": "<e>"}},
            "the tokens around a text",
        ),
    ],
)
def test_a_folder_whose_other_files_change_it_is_refused(
    files: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write(
        tmp_path / "in",
        {"tokenizer.json": raw("<e>"), "tokenizer_config.json": {"eos_token": "<e>"}, **files},
    )
    data = {"corpus": "x.txt", "tokenizer": {"kind": "file", "path": str(tmp_path / "in")}}
    with pytest.raises(
        RequestError, match=f"data.tokenizer.path: .*{words}.*name .*tokenizer.json itself"
    ):
        texts.tokenizer_file(schema.Data.model_validate(data), None)
    data["tokenizer"]["path"] += "/tokenizer.json"
    assert texts.tokenizer_file(schema.Data.model_validate(data), None)


# --- the comparison ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalizer": {"type": "NFC"}}, "the ids of 'e\u0301"),
        ({"normalizer": {"type": "Lowercase"}}, 'the ids of "Hello, world!'),
        (
            {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
            "the ids of ' '",
        ),
        ({"decoder": None}, "the decoded text of ' '"),
        ({"post_processor": begins("<b>", SIZE)}, "the ids of ''"),
        ({"added_tokens": []}, "with special tokens read"),
    ],
)
def test_a_difference_names_the_text(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    fields = {"tokenizer_class": "PreTrainedTokenizerFast"}
    _, ours, theirs = kept(
        tmp_path, {"tokenizer.json": raw("<b>"), "tokenizer_config.json": fields}
    )
    assert tokenizer_files.compare(ours, theirs, tmp_path) == len(tokenizer_files.TEXTS) + 2
    other = Tokenizer(json.dumps(raw("<b>", **change)))
    with pytest.raises(FlyweightError) as error:
        tokenizer_files.compare(other, theirs, tmp_path)
    assert words in str(error.value)


def test_a_character_without_a_token_fails_on_both_sides_alike(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "?"}
    parts = {"model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None}
    fields = {"tokenizer_class": "PreTrainedTokenizerFast"}
    known, ours, _ = kept(
        tmp_path, {"tokenizer.json": raw(**parts), "tokenizer_config.json": fields}
    )
    assert known["compared"] and ours.encode("b a") == [1, 0]


def test_native_code_that_gives_up_is_an_error_with_words() -> None:
    split = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    steps = {"type": "Sequence", "pretokenizers": [split, {**BYTES, "use_regex": False}]}
    tokenizer = Tokenizer(json.dumps(raw(pre_tokenizer=steps)))
    assert tokenizer.encode("a" * 400)
    with pytest.raises(FlyweightError, match="the tokenizer gave up"):
        tokenizer.encode("a" * 40 + "b")


# --- without transformers ---


def test_a_tokenizer_json_that_says_it_all_needs_no_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "transformers")
    files = {
        "tokenizer.json": raw("<b>", "<e>", post_processor=begins("<b>", SIZE)),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<e>"},
        "special_tokens_map.json": {"bos_token": "<b>"},
    }
    known, ours, theirs = kept(tmp_path, files)
    assert known == {"compared": 0, "why": "transformers is not installed"}
    assert ours.words == {"bos": "<b>", "eos": "<e>", "pad": None}
    assert tokenizer_files.compare(ours, theirs, tmp_path)  # and it is right


def qwen_parts() -> dict[str, Any]:
    """What Qwen2's class builds, as transformers writes it."""
    made = transformers.Qwen2Tokenizer(vocab=VOCAB, merges=list(MERGES))
    built = json.loads(made.backend_tokenizer.to_str())
    return {key: built[key] for key in ("normalizer", "pre_tokenizer", "decoder")}


def test_parts_that_are_the_class_own_need_no_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "transformers")
    own = raw("<|endoftext|>", "<|im_start|>", "<|im_end|>", **qwen_parts())
    _, ours, theirs = kept(tmp_path, {**QWEN, "tokenizer.json": own})
    assert tokenizer_files.compare(ours, theirs, tmp_path)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert f"builds another {part}" in refusal(
            tmp_path, {**QWEN, "tokenizer.json": {**own, part: None}}
        )


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"vocab.json": True}, "only older files"),
        ({"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}, "a LlamaTokenizer"),
        ({"tokenizer_config.json": {"eos_token": "<e>"}}, "eos_token '<e>'"),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": listed("<e>")}},
            f"token {SIZE} of added_tokens_decoder",
        ),
        (
            {"tokenizer_config.json": {"extra_special_tokens": ["<e>"]}},
            "extra_special_tokens '<e>'",
        ),
        ({"added_tokens.json": {"<e>": SIZE + 1}}, "'<e>' of added_tokens.json"),
        ({"special_tokens_map.json": {"bos_token": {"content": "<e>"}}}, "bos_token '<e>'"),
        ({"tokenizer_config.json": {"extra_special_tokens": 5}}, "extra_special_tokens '5'"),
        ({"special_tokens_map.json": {"eos_token": 5}}, "eos_token '5'"),
        ({"config.json": {"model_type": "opt"}}, "the tokenizer of a opt model"),
        ({"config.json": {"model_type": "gpt2"}}, "unk_token '<|endoftext|>'"),
    ],
)
def test_files_that_would_change_it_need_transformers(
    files: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "transformers")
    own = {} if "vocab.json" in files else {"tokenizer.json": raw("<b>")}
    message = refusal(tmp_path, {**own, **files})
    assert words in message and "flyweight[hub]" in message


# --- defaults of generation ---


def test_ids_and_sampling_of_a_config_become_defaults_of_generation(tmp_path: Path) -> None:
    drawn = {
        "bos_token_id": 4,
        "eos_token_id": [7, 9],
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
    }
    source = write(tmp_path / "a", {"config.json": {"model_type": "llama", **drawn}})
    tokenizer_files.keep_generation(source, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == drawn
    older = transformers.GenerationConfig.from_pretrained(tmp_path / "a", "config.json")
    assert {key: getattr(older, key) for key in drawn} == drawn  # as transformers has it


def test_a_generation_config_counts_before_the_config(tmp_path: Path) -> None:
    config = {"model_type": "llama", "bos_token_id": 4, "eos_token_id": 7, "temperature": 0.7}
    own = {"eos_token_id": [9], "top_k": 20, "transformers_version": "5.0.0"}
    source = write(tmp_path / "a", {"config.json": config, "generation_config.json": own})
    tokenizer_files.keep_generation(source, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "generation_config.json").read_text()) == {
        **own,
        "bos_token_id": 4,
    }


# --- in and out ---


def llama(folder: Path, files: dict[str, Any], **fields: Any) -> Path:
    """Write a tiny Llama with these files beside it."""
    wide = {
        "vocab_size": SIZE + 4,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
    }
    config = transformers.LlamaConfig(
        **wide, num_attention_heads=2, bos_token_id=SIZE, eos_token_id=SIZE + 1, **fields
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    for name, content in files.items():
        (folder / name).write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
    return folder


CHATTY = {
    "tokenizer.json": raw("<b>", "<e>", "<t>", post_processor=begins("<b>", SIZE)),
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<b>",
        "eos_token": "<t>",
        "pad_token": "<e>",
        "chat_template": [
            {"name": "default", "template": CHAT},
            {"name": "tool-use", "template": "tools"},
        ],
    },
    "generation_config.json": {
        "bos_token_id": SIZE,
        "eos_token_id": [SIZE + 1, SIZE + 2],
        "pad_token_id": SIZE + 1,
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 40,
    },
}


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    place = tmp_path_factory.mktemp("chatty")
    source = llama(place / "hf", CHATTY)
    return source, imported(str(source), Store(place / "runs"), lambda draft, facts: None)


def test_an_import_tells_how_its_tokenizer_was_compared(chatty: tuple[Path, Artifact]) -> None:
    _, made = chatty
    assert made.facts["tokenizer"]["compared"] > len(tokenizer_files.TEXTS)
    assert not any("tokenizer-" in path.name for path in made.path.rglob("*"))


def test_a_hugging_face_export_has_the_same_ids_defaults_and_tokenizer(
    chatty: tuple[Path, Artifact], tmp_path: Path
) -> None:
    source, made = chatty
    hf.write(made.path / "model", tmp_path / "hf", lambda kind, notes: "card")
    drawn = [
        json.loads((place / "generation_config.json").read_text())
        for place in (source, tmp_path / "hf")
    ]
    assert {key: drawn[1][key] for key in drawn[0]} == drawn[0]
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (
        SIZE,
        [SIZE + 1, SIZE + 2],
        SIZE + 1,
    )
    assert config.vocab_size == SIZE + 4
    theirs, again = (
        transformers.AutoTokenizer.from_pretrained(place) for place in (source, tmp_path / "hf")
    )
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<b>", "<t>", "<e>")
    assert again.chat_template == theirs.chat_template
    assert again("the <b>")["input_ids"] == theirs("the <b>")["input_ids"]
    assert tokenizer_files.compare(Tokenizer.load(tmp_path / "hf"), again, tmp_path)


def header(made: Artifact, out: Path) -> dict[str, Any]:
    gguf = pytest.importorskip("gguf")
    from flyweight.formats import gguf as export

    export.write(made.path / "model", out)
    fields = gguf.GGUFReader(out).fields
    return {
        name: field.contents()
        for name, field in fields.items()
        if name.startswith(("tokenizer.", "general.sampling"))
    }


def test_a_gguf_export_has_them_too(chatty: tuple[Path, Artifact], tmp_path: Path) -> None:
    found = header(chatty[1], tmp_path / "model.gguf")
    ids = {"bos": SIZE, "eos": SIZE + 2, "eot": SIZE + 1, "padding": SIZE + 1}
    assert {key: found[f"tokenizer.ggml.{key}_token_id"] for key in ids} == ids
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (
        True,
        False,
    )
    assert (
        found["tokenizer.chat_template"] == CHAT
        and found["tokenizer.chat_template.tool_use"] == "tools"
    )
    drawn = {"temp": 0.6, "top_p": 0.9, "top_k": 40}
    assert {key: found[f"general.sampling.{key}"] for key in drawn} == pytest.approx(drawn)
    assert {key for key in found if "sampling" in key} == {
        f"general.sampling.{key}" for key in drawn
    }


def test_models_without_a_tokenizer_json_are_read_as_transformers_reads_them(
    tmp_path: Path,
) -> None:
    fields = {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "</s>",
        "eos_token": "</s>",
        "add_bos_token": True,
    }
    wide = {
        "vocab_size": SIZE + 4,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 32,
    }
    config = transformers.OPTConfig(**wide, word_embed_proj_dim=32, max_position_embeddings=64)
    transformers.OPTForCausalLM(config).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "generation_config.json").unlink()
    write(tmp_path / "hf2", {"vocab.json": True, "tokenizer_config.json": fields})
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / "hf" / name).write_bytes((tmp_path / "hf2" / name).read_bytes())
    before = {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()}
    made = imported(str(tmp_path / "hf"), Store(tmp_path / "runs"), lambda draft, facts: None)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert Tokenizer.load(made.path / "model").encode("the cat") == theirs("the cat")["input_ids"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()} == before
