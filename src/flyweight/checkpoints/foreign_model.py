"""Put any other Hugging Face causal language model behind the decoder's interface.

Such a model can teach and be measured.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from flyweight.checkpoints import read, refusals, weights
from flyweight.checkpoints.attributes import auto_config, first_line, quiet
from flyweight.checkpoints.read import Checkpoint
from flyweight.errors import FlyweightError, RequestError

_CONTEXTS = (
    "max_target_positions",
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "model_max_length",
)

_OFFSET = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Types of models whose first token has the position after that of their padding.

So many positions fewer are left for tokens.
"""

SLACK = 2**28
"""Numbers that a model may have beyond twice those in its files.

They are constants such as masks and tables of sines.
"""


@dataclass(frozen=True)
class ForeignConfig:
    """The sizes of a foreign model that are known before it is built.

    `context` is None where its config names no limit. `first` is the number of the first token's
    position.
    """

    model_type: str
    vocab_size: int
    context: int | None
    first: int = 0


class ForeignCache:
    """A transformers cache with the decoder's bookkeeping."""

    def __init__(self, capacity: int) -> None:
        from transformers.cache_utils import DynamicCache

        self.past = DynamicCache()
        self.length = 0
        self.capacity = capacity

    def select(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order."""
        self.past.batch_select_indices(rows)

    def truncate(self, length: int, kept: Tensor) -> bool:
        """Forget all tokens but `kept` (1, length).

        Return whether that was possible; a recurrent state cannot go back.
        """
        # Older transformers lack the attribute: there, all tokens are read anew.
        if not getattr(self.past, "is_croppable", False):
            return False
        self.past.crop(length - self.length)
        self.length = length
        return True

    def resize(self, length: int) -> None:
        """Allow `length` tokens in all: this cache grows by itself."""
        self.capacity = length


class Foreign(nn.Module):
    """A transformers model that is evaluated and generates, but is never trained or changed.

    `hidden` returns the last hidden states where the head is one matrix after them; one run on
    random tokens tests this. Where the family does more (a softcap, a scale), `hidden` returns the
    logits themselves.
    """

    softcap: float | None = None

    def __init__(self, model: Any, config: ForeignConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        takes = inspect.signature(model.forward).parameters
        self._takes_positions, self._caches = "position_ids" in takes, "past_key_values" in takes
        self.eval().requires_grad_(False)
        self._split = self._splits()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The float type of the weights."""
        return self.model.dtype

    def hidden(
        self,
        tokens: Tensor,
        cache: ForeignCache | None = None,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return what `logits` needs of tokens (B, T): (B, T, dim) or (B, T, vocab_size).

        Arguments as `Decoder.hidden`. Raises RequestError for documents.
        """
        if documents is not None:
            raise RequestError("documents: models behind transformers read each row as one text")
        return self._run(self._body() if self._split else self.model, tokens, cache, mask)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., vocab_size) of what `hidden` returned."""
        return self.model.get_output_embeddings()(hidden) if self._split else hidden

    def forward(
        self, tokens: Tensor, cache: ForeignCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the logits (B, T, vocab_size) of the token after each position."""
        return self.logits(self.hidden(tokens, cache, mask))

    def new_cache(self, batch: int, length: int) -> ForeignCache:
        """Return an empty cache for up to `length` tokens."""
        if not self._caches:
            raise RequestError(
                f"{self.config.model_type} models keep no key/value cache, so they cannot generate "
                "here"
            )
        return ForeignCache(length)

    def output(self, hidden: Tensor) -> NoReturn:
        """Raise RequestError: a foreign model cannot be a student."""
        raise RequestError(
            f"{self.config.model_type} models can teach and be measured here, not trained"
        )

    @torch.no_grad()
    def forward_flops(self, length: int) -> int:
        """Return the FLOPs of one forward pass over `length` tokens.

        torch counts them, with attention written out as matrix products.
        """
        from torch.utils.flop_counter import FlopCounterMode

        implementation = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")  # fused attention counts as nothing on a CPU
        try:
            with FlopCounterMode(display=False) as counter:
                self._run(
                    self.model,
                    torch.zeros(1, length, dtype=torch.long, device=self.device),
                    None,
                    None,
                )
        finally:
            self.model.set_attn_implementation(implementation)
        return counter.get_total_flops()

    def _run(
        self, module: Any, tokens: Tensor, cache: ForeignCache | None, mask: Tensor | None
    ) -> Tensor:
        start = 0 if cache is None else cache.length
        options: dict[str, Any] = {"use_cache": cache is not None} if self._caches else {}
        if cache is not None:
            options["past_key_values"] = cache.past
        if mask is not None:
            options["attention_mask"] = mask.long()
            if self._takes_positions:
                positions = (mask.long().cumsum(1)[:, start:] - 1).clamp(min=0)  # (B, T)
                options["position_ids"] = positions + self.config.first
        output = module(input_ids=tokens, **options)
        if cache is not None:
            cache.length += tokens.shape[1]
        return output.logits if module is self.model else output.last_hidden_state

    def _body(self) -> object:
        return getattr(self.model, self.model.base_model_prefix)

    @torch.no_grad()
    def _splits(self) -> bool:
        """Return whether the head's matrix turns last hidden states into the model's own logits."""
        prefix, head = self.model.base_model_prefix, self.model.get_output_embeddings()
        if not prefix or not hasattr(self.model, prefix) or head is None:
            return False
        tokens = torch.randint(
            self.config.vocab_size, (1, 8), generator=torch.Generator().manual_seed(0)
        ).to(self.device)
        whole = self._run(self.model, tokens, None, None)
        hidden = self._run(self._body(), tokens, None, None)
        if hidden.shape[-1] != head.weight.shape[-1]:
            return False
        return torch.equal(head(hidden).float(), whole.float())  # the same products, bit by bit


def config_of(source: Checkpoint) -> ForeignConfig:
    """Return the sizes of a foreign model.

    Raises RequestError where transformers does not know it as a causal one.
    """
    return _sizes(_config(source), source)


def load(folder: Path, device: str | torch.device = "cpu", layers: int | None = None) -> Foreign:
    """Return the model in a Hugging Face folder, in its own dtype, or its first `layers` layers.

    Raises RequestError for a model that reads in both directions. Raises FlyweightError where its
    files do not fit its config; the message names the tensors that are missing or unused.
    """
    import transformers

    source = read.read(folder)
    config = _config(source)
    sizes = _sizes(config, source)
    choose_own_code(config)
    if layers is not None:
        cut(config, layers)
    if not source.code:
        _refuse_by_plan(source, config)
    try:
        with quiet():
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                # The config may name a narrower type than the files have.
                dtype=weights.float_type(folder, source.weights),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=source.code,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
            )
        model, misfits = loaded
    except Exception as error:  # configs of other people's models fail in every way
        raise FlyweightError(
            f"{folder}: transformers could not load it: {first_line(error)}"
        ) from error
    unfit = {
        "missing_keys": "are missing",
        "mismatched_keys": "are of another shape",
        "unexpected_keys": "have no use",
    }
    if layers is not None:
        unfit.pop("unexpected_keys")
    if faults := [
        f"{_some(misfits[kind])} {fault}" for kind, fault in unfit.items() if misfits.get(kind)
    ]:
        raise FlyweightError(
            f"{folder}: its tensors are not those of its config: {'; '.join(faults)}. Copy the "
            "model again, or save it anew"
        )
    try:
        return Foreign(model.to(device), sizes)
    except Exception as error:  # as above
        raise FlyweightError(
            f"{folder}: transformers could not run it: {first_line(error)}"
        ) from error


def _some(names: Iterable[object]) -> str:
    """Return names, or (name, shape in the file, shape of the model), as one line."""
    listed = sorted(_shapes(*name) if isinstance(name, tuple) else str(name) for name in names)
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    return ", ".join(listed[:20]) + more


def _shapes(name: str, actual: Iterable[int], expected: Iterable[int]) -> str:
    return f"{name} {tuple(actual)} instead of {tuple(expected)}"


def _refuse_by_plan(source: Checkpoint, config: Any) -> None:
    """Raise RequestError where a model is far larger than its files, or is not a decoder.

    Builds the model on the meta device, which takes no memory. transformers itself would first
    allocate the missing tensors.
    """
    import transformers
    from transformers.initialization import no_init_weights

    stored, tensors = source.elements()
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > tensors:
        raise RequestError(
            f"{source.path}: its config.json says {layers} layers, but its files hold {tensors} "
            "tensors in all"
        )
    try:
        with quiet(), no_init_weights(), torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config))
    except Exception as error:  # configs of other people's models fail in every way
        raise RequestError(
            f"{source.path}: transformers cannot build it: {first_line(error)}"
        ) from error
    planned = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if planned > 2 * stored + SLACK:
        raise RequestError(
            f"{source.path}: a model of its config.json has {planned:,} numbers, but its files "
            f"hold {stored:,}: they are of another model, or the config is damaged"
        )
    masked = type(config) in transformers.AutoModelForMaskedLM._model_mapping
    # Families that always are decoders set `is_decoder` themselves.
    if masked and getattr(model.config, "is_decoder", True) is False:
        raise RequestError(
            f"{source.path}: this {source.model_type} model is a masked language model "
            "(is_decoder: false): it reads in both directions, and neither likelihood nor "
            "generation mean anything"
        )


def cut(config: Any, layers: int) -> None:
    """Leave the config of a transformers model its first `layers` layers."""
    config.num_hidden_layers = layers
    if isinstance(kinds := getattr(config, "layer_types", None), list):
        config.layer_types = kinds[:layers]


def choose_own_code(config: Any) -> None:
    """Let transformers choose how attention and experts are computed, whatever a config says.

    A config may name code of the hub there, and where flash attention is not installed,
    transformers fetches it from the hub.
    """
    config._attn_implementation = None
    config._experts_implementation = None


def _config(source: Checkpoint) -> object:
    """Return a foreign model's config.

    Raises RequestError where it is not that of one causal language model.
    """
    try:
        import transformers
    except ImportError as error:
        raise RequestError(
            f"{source.path}: models of the type {source.model_type} need the transformers library; "
            "pip install 'flyweight[hub]'"
        ) from error
    config = auto_config(source.path, source.code)
    if not source.code and type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise RequestError(
            f"{source.path}: {source.model_type} is not a causal language model that transformers "
            "knows"
        )
    says = {name: getattr(config, name) for name in refusals.DIRECTIONS & vars(config).keys()}
    if reasons := refusals.both_directions(says):
        raise RequestError(f"{source.path}: {'; '.join(reasons)}")
    return config


def _sizes(config: Any, source: Checkpoint) -> ForeignConfig:
    try:
        text = config.get_text_config()
        vocab = text.vocab_size
    except (
        Exception
    ) as error:  # an inner config that is not one, is one of two, or lacks a vocabulary
        raise RequestError(
            f"{source.path}: its config.json does not describe one language model: "
            f"{first_line(error)}; remove what does not belong to it (text_config, decoder, ...)"
        ) from error
    if type(vocab) is not int or vocab < 1:
        raise RequestError(f"{source.path}: vocab_size is {vocab!r:.80}, not a number of tokens")
    context = next(
        (
            value
            for name in _CONTEXTS
            if type(value := getattr(text, name, None)) is int and value > 0
        ),
        None,
    )
    if source.model_type not in _OFFSET:
        return ForeignConfig(source.model_type, vocab, context)
    first, rows = getattr(text, "pad_token_id", None), context
    if type(first) is not int or rows is None or not 0 <= first < rows - 1:
        raise RequestError(
            f"{source.path}: pad_token_id is {first!r:.80}, but says where positions of this "
            f"{source.model_type} model begin. Make it a whole number that leaves room for tokens "
            "in max_position_embeddings"
        )
    return ForeignConfig(source.model_type, vocab, rows - first - 1, first + 1)
