"""The config of peft's adapters, `adapter_config.json`: its fields checked before one is used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from flyweight.checkpoints.peft_modules import CONFIG
from flyweight.config.base import Probability
from flyweight.core.files import reason
from flyweight.errors import FlyweightError, RequestError

REPEATED_GROUP = re.compile(r"\)[*+{]")
REPETITION = re.compile(r"[*+{]")
REPETITIONS = 3
"""More of them, or one of a group, could take Python's regular expressions hours on one name."""


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("true or false is not a number")
    return value


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{text[:60]!r} is not a regular expression ({error})") from error
    if REPEATED_GROUP.search(text) or len(REPETITION.findall(text)) > REPETITIONS:
        raise ValueError(
            f"{text[:60]!r} repeats too much, and could be matched without end; write modules' "
            f"names instead"
        )
    return text


Number = Annotated[float, BeforeValidator(_number), Field(gt=0, le=1e9)]
Rank = Annotated[int, BeforeValidator(_number), Field(gt=0, lt=2**31)]
Pattern = Annotated[str, AfterValidator(_pattern)]


def _none_is_empty(value: object) -> object:
    return {} if value is None else value


class PeftFields(BaseModel):
    """The fields of an adapter that flyweight reads; what it does not know is in `model_extra`."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    peft_type: Literal["LORA", "IA3", "PREFIX_TUNING"]
    r: Rank = 8
    lora_alpha: Number = 8.0
    lora_dropout: Annotated[
        Probability, BeforeValidator(lambda value: 0.0 if value is None else _number(value))
    ] = 0.0
    use_rslora: Annotated[bool, Field(strict=True)] = False
    use_dora: Annotated[bool, Field(strict=True)] = False
    rank_pattern: Annotated[dict[Pattern, Rank], BeforeValidator(_none_is_empty)] = {}
    alpha_pattern: Annotated[dict[Pattern, Number], BeforeValidator(_none_is_empty)] = {}
    num_attention_heads: Rank | None = None
    """Heads of keys and values, of a prefix."""

    def rank(self, module: str) -> int:
        """Return the rank of a module's matrices; a pattern counts before the common rank."""
        return _of(self.rank_pattern, module, self.r)

    def factor(self, module: str) -> float:
        """Return what a module's product is multiplied by."""
        rank = self.rank(module)
        alpha = _of(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (sqrt(rank) if self.use_rslora else rank)


T = TypeVar("T")


def _of(patterns: Mapping[str, T], module: str, default: T) -> T:
    """Return the value of the first pattern that a module's name ends with, as peft does."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def read_fields(folder: Path) -> PeftFields:
    """Return the fields of the adapter in a folder.

    Raises RequestError for a kind of adapter or an option that flyweight does not have, and for
    values that no adapter has. Raises FlyweightError for a damaged file.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise RequestError(
            f"{folder}: holds no adapter of peft's ({CONFIG} is missing); name the folder that "
            f"save_pretrained wrote"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FlyweightError(f"{path}: cannot be read ({reason(error)}); save it again") from error
    if not isinstance(fields, dict):
        raise FlyweightError(f"{path}: does not hold the fields of an adapter; save it again")
    _refuse_options(folder, fields)
    try:
        return PeftFields.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        message = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{path}: {where[:80]}: {message}; save the adapter again") from error


def _refuse_options(folder: Path, fields: Mapping[str, Any]) -> None:
    """Raise RequestError for a kind of adapter, or an option of one, that flyweight lacks."""
    kind = fields.get("peft_type")
    if kind not in ("LORA", "IA3", "PREFIX_TUNING"):
        raise RequestError(
            f"{folder}: an adapter of kind {kind} cannot become one of flyweight's, which are LORA "
            f"(with rsLoRA and DoRA), IA3 and PREFIX_TUNING; merge it with peft (merge_and_unload) "
            f"where it can be"
        )
    if kind == "PREFIX_TUNING" and fields.get("prefix_projection"):
        raise RequestError(
            f"{folder}: a network makes this prefix's keys and values (prefix_projection is true), "
            f"and flyweight's prefix is the keys and values themselves; train it without "
            f"prefix_projection"
        )
    reasons = [f"{name} is {value!r}" for name, value in fields.items() if _adds(name, value)]
    first = fields.get("init_lora_weights")
    if isinstance(first, str) and first.lower().startswith(CHANGE_BASE):
        reasons.append(f"init_lora_weights is {first!r}, which changes the base")
    if reasons:
        raise RequestError(
            f"{folder}: this adapter has options that flyweight does not have: "
            f"{', '.join(reasons)}; merge it with peft (merge_and_unload) and import the result"
        )


CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of first values of a LoRA with which the base is no longer the model that it was."""

INERT = frozenset(
    (
        *PeftFields.model_fields,
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "target_modules", "exclude_modules", "feedforward_modules"),
        *("fan_in_fan_out", "init_lora_weights", "init_ia3_weights", "layers_to_transform"),
        *("layers_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config"),
        *("lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
    )
)
"""Fields that say how an adapter was made, or that its tensors tell."""


def _adds(name: str, value: object) -> bool:
    """Return whether a field makes an adapter compute something that flyweight does not know.

    A field of another version of peft's counts where it is switched on, or has parts.
    """
    if name in INERT:
        return False
    if name == "bias":
        return value not in ("none", None)
    return value is True or (isinstance(value, dict | list) and len(value) > 0)
