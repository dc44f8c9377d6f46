"""Read a config.json as transformers does: the attributes that its model code uses; no torch.

Where transformers is installed, its own config class reads the file, with all aliases, older names
and defaults. Without it, a strict reader knows the plain fields, the older ways to write rotary
positions and GPT-2's aliases, and refuses all else.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flyweight.errors import RequestError

_NOTHING = object()


class Fields:
    """The attributes of a config.

    Each must be read, be at its default, or be without meaning; `left` names the others. A value of
    another type than asked for is noted in `reasons`.
    """

    def __init__(
        self,
        values: Mapping[str, object],
        defaults: Mapping[str, object],
        reasons: list[str],
        within: str = "",
    ) -> None:
        self.values = values
        self.defaults = defaults
        self.reasons = reasons
        self.within = within
        self._seen: set[str] = set()

    def size(self, name: str) -> int:
        """Return a whole number of at least 0."""
        value = self._value(name)
        return value if self._need(type(value) is int and value >= 0, name, "a whole number") else 0

    def size_or_none(self, name: str) -> int | None:
        """Return a whole number, or None where the config leaves it open."""
        return None if self._value(name) is None else self.size(name)

    def number(self, name: str) -> float:
        """Return a number."""
        value = self._value(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if self._need(number and abs(value) < 1e300, name, "a number") else 0.0

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self._value(name)
        return value if self._need(isinstance(value, bool), name, "true or false") else False

    def word(self, name: str) -> str:
        """Return a word."""
        value = self._value(name)
        return value if self._need(isinstance(value, str), name, "a word") else ""

    def words(self, name: str) -> list[str]:
        """Return a list of words."""
        value = self._value(name)
        listed = isinstance(value, list) and all(isinstance(word, str) for word in value)
        return value if self._need(listed, name, "a list of words") else []

    def fields(self, name: str) -> Fields:
        """Return the fields within one, none of which has a default."""
        value = self._value(name)
        inner = value if self._need(isinstance(value, dict), name, "a group of fields") else {}
        return Fields(inner, {}, self.reasons, f"{self.within}{name}.")

    def left(self) -> list[str]:
        """Return the fields that were not read, are not at their default and have a meaning."""
        reasons = []
        for name, value in self.values.items():
            if (
                name in self._seen
                or name in MEANINGLESS
                or MEANINGLESS_AT.get(name, _NOTHING) == value
            ):
                continue
            if self.defaults.get(name, _NOTHING) != value:
                reasons.append(f"{self.within}{name} is {value!r:.80}, which is not read here")
        return reasons

    def has(self, name: str) -> bool:
        """Return whether the config has this field."""
        return name in self.values

    def _value(self, name: str) -> Any:
        self._seen.add(name)
        return self.values.get(name)

    def _need(self, holds: bool, name: str, kind: str) -> bool:
        if not holds:
            fault = "is missing"
            if name in self.values:
                fault = f"is {self.values[name]!r:.80}, not {kind}"
            self.reasons.append(f"{self.within}{name} {fault}")
        return holds


MEANINGLESS = frozenset(
    (
        "model_type",
        "architectures",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "name_or_path",
        "_name_or_path",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "tokenizer_class",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "prefix",
        "use_cache",
        "output_hidden_states",
        "output_attentions",
        "_output_attentions",
        "return_dict",
        "pretraining_tp",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_attn_implementation_autoset",
        "experts_implementation",
        "_experts_implementation_internal",
        "_flash_attn_2_enabled",
        "_commit_hash",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
        "n_ctx",
        "unsloth_fixed",
        "unsloth_version",
        "transformers.js_config",
        "is_llama_config",
        "neftune_noise_alpha",
        "model_max_length",
        "_post_init_done",
        "ignore_keys_at_rope_validation",
        "tf_legacy_loss",
        "torchscript",
    )
)
"""Fields that no logit depends on.

Names, labels, special tokens, settings of speed, and notes of other programs.
"""

MEANINGLESS_AT: dict[str, Any] = {
    "is_decoder": False,
    "tie_encoder_decoder": False,
    "cross_attention_hidden_size": None,
    "pruned_heads": {},
    "use_bfloat16": False,
    "add_cross_attention": False,
    "rope_interleaved": False,
    "use_mrope": False,
}
"""Fields of older versions and other programs, at the value at which they do nothing."""

_GENERATION = frozenset(
    (
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty",
        "bad_words_ids",
        "num_return_sequences",
        "output_scores",
        "return_dict_in_generate",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
    )
)
"""Fields of generation that older configs hold.

Transformers takes them out of the model's config.
"""

_COMMON: dict[str, Any] = {
    "is_encoder_decoder": False,
    "chunk_size_feed_forward": 0,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
}
_ROTARY: dict[str, Any] = {
    **_COMMON,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": None,
    "attention_bias": False,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "is_encoder_decoder": False,
        "chunk_size_feed_forward": 0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    "llama": {
        **_ROTARY,
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "mlp_bias": False,
        "head_dim": None,
    },
    "qwen3": {
        **_ROTARY,
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "head_dim": 128,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 28,
        "layer_types": None,
    },
}
"""The defaults of transformers' config classes, which a test compares with them."""

_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
"""GPT-2's second names, which win over its own."""

_LONG = ("llama3", "yarn", "longrope")


def resolved(path: Path, raw: Mapping[str, object]) -> Fields:
    """Return the attributes of a GPT-2, Llama or Qwen3 config.

    Raises RequestError where transformers does not accept it.
    """
    if find_spec("transformers") is None:
        return strict(raw)
    config = auto_config(path)
    if config.model_type != raw["model_type"]:
        raise RequestError(
            f"{path}: transformers reads its config.json as one of {config.model_type}, not "
            f"{raw['model_type']}"
        )
    default = type(config)()
    try:
        values = {name: getattr(config, name) for name in vars(config)}
    except Exception as error:  # configs that differ by layer have no attributes of the whole
        raise RequestError(
            f"{path}: its config.json has no value for the whole model: {first_line(error)}"
        ) from error
    return Fields(values, vars(default), [])


def strict(raw: Mapping[str, Any]) -> Fields:
    """Return the attributes as transformers has them, read without it.

    An unknown field is noted as a reason.
    """
    family = raw["model_type"]
    defaults, reasons = _DEFAULTS[family], list[str]()
    aliases = _ALIASES if family == "gpt2" else {}
    older = () if family == "gpt2" else ("rope_scaling", "rope_theta", "partial_rotary_factor")
    values = copy.deepcopy(defaults)
    values |= {name: value for name, value in raw.items() if name in defaults}
    values |= {aliases[name]: value for name, value in raw.items() if name in aliases}
    for name, value in raw.items():
        meaningless = (
            name in MEANINGLESS
            or name in _GENERATION
            or MEANINGLESS_AT.get(name, _NOTHING) == value
        )
        if not (name in defaults or name in aliases or name in older or meaningless):
            reasons.append(
                f"{name} is {value!r:.80}, which is not read without the transformers library "
                "(flyweight[hub])"
            )
    if family != "gpt2":
        values["rope_parameters"] = _rope(raw, values, reasons)
        if values["num_key_value_heads"] is None:
            values["num_key_value_heads"] = values["num_attention_heads"]
    if family == "llama" and values["head_dim"] is None:
        values["head_dim"] = _quotient(values["hidden_size"], values["num_attention_heads"])
    if (
        family == "qwen3"
        and values["layer_types"] is None
        and values["use_sliding_window"] is False
    ):
        layers = values["num_hidden_layers"]
        values["layer_types"] = ["full_attention"] * layers if type(layers) is int else None
    if family == "qwen3" and values["use_sliding_window"] is False:
        values["sliding_window"] = None
    return Fields(values, defaults, reasons)


def _rope(
    raw: Mapping[str, object], values: Mapping[str, object], reasons: list[str]
) -> dict[str, object]:
    """Return the rotary parameters in one group.

    `rope_scaling` wins over `rope_parameters`, and a field in the group over one beside it.
    """
    options = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(options, dict):
        reasons.append(f"its rotary parameters are {options!r:.80}, not a group of fields")
        return {}
    rope = dict(options)
    rope.setdefault("rope_theta", raw.get("rope_theta", 10_000.0))
    if raw.get("partial_rotary_factor") is not None:
        rope.setdefault("partial_rotary_factor", raw["partial_rotary_factor"])
    rope.setdefault("rope_type", rope.get("type", "default"))
    if rope["rope_type"] in _LONG:
        rope.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
    return rope


def _quotient(size: object, heads: object) -> int | None:
    if type(size) is int and type(heads) is int and heads > 0:
        return size // heads
    return None


def auto_config(path: Path, code: bool = False) -> Any:
    """Return a folder's config as transformers reads it; raise RequestError where it does not.

    Always sets `return_dict`: several of transformers' models cannot run with `return_dict: false`.
    """
    # Some families look for kernels on the hub; they compute without them too.
    os.environ.setdefault("USE_HUB_KERNELS", "NO")
    import transformers

    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(
                path, trust_remote_code=code, local_files_only=True
            )
        config.return_dict = True
        return config
    except Exception as error:  # configs of other people's models fail in every way
        raise RequestError(
            f"{path}: transformers does not accept its config.json: {first_line(error)}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers and of the libraries that it loads."""
    import transformers

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torchao warns of missing kernels
    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Return an error's message as one line, or the name of its type."""
    return " ".join(str(error).split())[:300] or type(error).__name__
