"""flyweight's decoder as a transformers model.

`AutoModelForCausalLM`, `generate`, peft, lm-eval and TRL work on it. It is the same `Decoder`,
wrapped: nothing is computed here. Imported when transformers' Auto classes are (see `register`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from flyweight.checkpoints import token_rows
from flyweight.checkpoints.auto_config import FlyweightConfig
from flyweight.model.cache import CacheSlot
from flyweight.model.decoder import Decoder
from flyweight.model.masks import WHOLE, KeyLayout


class _Slot:
    """One visit's part of a transformers cache."""

    def __init__(self, past: Cache, visit: int, length: int) -> None:
        self.past = past
        self.visit = visit
        self.length = length

    def layout(self, tokens: int) -> KeyLayout:
        """Return that all keys are there, in their order, whatever the window."""
        return WHOLE

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, H_kv, T, D) and return all so far (B, H_kv, S, D)."""
        end = self.length + keys.shape[2]
        keys, values = self.past.update(keys, values, self.visit)
        return keys[:, :, :end], values[:, :, :end]  # a static cache returns its whole length


class _Past:
    """A transformers cache as the decoder sees it; visits are its layers."""

    def __init__(self, past: Cache, last: Tensor | None) -> None:
        self.past = past
        self.length = int(past.get_seq_length())
        self.last = last

    def reserve(self, tokens: int, row_starts: Tensor | None = None) -> None:
        """Do nothing: transformers' caches grow, or raise an error of their own."""

    def slot(self, index: int) -> CacheSlot:
        """Return one visit's part."""
        return _Slot(self.past, index, self.length)

    def advance(self, tokens: int, last: Tensor | None) -> None:
        """Count what was read."""
        self.length, self.last = self.length + tokens, last


class FlyweightModel(Decoder):
    """The decoder up to its last hidden states, called as transformers calls a model's body."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        previous_ids: Tensor | None = None,
        **options: object,
    ) -> BaseModelOutputWithPast:
        """Return the last hidden states (B, T, dim) and the cache.

        Arguments as `FlyweightForCausalLM.forward`.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("this model reads input_ids; it does not take inputs_embeds")
        if use_cache is None:
            use_cache = not self.training
        past = past_key_values
        if past is None and use_cache:
            past = DynamicCache()
        start = 0 if past is None else int(past.get_seq_length())
        mask = attention_mask
        if mask is not None:
            mask = mask[:, : start + input_ids.shape[1]].bool()
            if mask.all():
                mask = None
        cache = None if past is None else _Past(past, self._before(previous_ids, start, mask))
        _check_positions(position_ids, mask, start, input_ids.shape[1])
        recompute = self.gradient_checkpointing and self.training and cache is None
        self.recompute = self._gradient_checkpointing_func if recompute else None
        hidden = self.hidden(input_ids, cache, mask)  # (B, T, dim)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=past,  # pyright: ignore[reportArgumentType]
        )

    def _before(self, previous: Tensor | None, start: int, mask: Tensor | None) -> Tensor | None:
        """Return the last cached tokens (B, n), as a bigram table reads them, with padding marked.

        `previous` are the last of the `start` cached tokens.
        """
        needed = min(self.lookback, start)
        if not needed:
            return None
        if previous is None or previous.shape[1] < needed:
            tokens = "token" if needed == 1 else f"{needed} tokens"
            raise ValueError(
                f"previous_ids: a model with a bigram table or a mixture needs the {tokens} before "
                "the new ones"
            )
        before = None if mask is None else mask[:, start - needed : start]
        return self.embedding.marked(previous[:, -needed:], before)


class FlyweightForCausalLM(PreTrainedModel, GenerationMixin):
    """The decoder with transformers' interface. Positions follow from the attention mask.

    Packed rows are refused.
    """

    config_class = FlyweightConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _can_compile_fullgraph = False

    def __init__(self, config: FlyweightConfig) -> None:
        super().__init__(config)
        self.decoder = FlyweightModel(config.model)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Do nothing: the decoder has initialised itself."""

    def resize_token_embeddings(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> torch.nn.Module:
        """Give the model rows for `new_num_tokens` tokens, new ones the mean of the others.

        Return the token table.
        """
        rows = new_num_tokens or self.config.vocab_size
        rows += -rows % (pad_to_multiple_of or 1)
        if rows != self.config.vocab_size:
            config, state = token_rows.resized(self.config.model, self.decoder.state_dict(), rows)
            decoder = FlyweightModel(config).to(device=self.device, dtype=self.dtype)
            decoder.load_state_dict(state)
            self.decoder = decoder.train(self.training)
            self.config.flyweight = config.model_dump(mode="json")
            self.config.vocab_size = rows
        return self.get_input_embeddings()

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the token table."""
        return self.decoder.embedding.tokens

    def get_output_embeddings(self) -> torch.nn.Module:
        """Return the head: the token table where it is tied."""
        if self.decoder.head is None:
            return self.decoder.embedding.tokens
        return self.decoder.head.linear

    @staticmethod
    def create_masks_for_generate(
        attention_mask: Tensor | None = None, **others: object
    ) -> Tensor | None:
        """Return the two-dimensional mask, from which the decoder makes its own."""
        return attention_mask

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, **kwargs: object
    ) -> dict[str, object]:
        """Add the tokens before the new ones, which a bigram table needs."""
        prepare = super().prepare_inputs_for_generation  # pyright: ignore[reportAttributeAccessIssue]
        inputs = prepare(input_ids, **kwargs)
        new = inputs["input_ids"].shape[1]
        if new < input_ids.shape[1]:
            inputs["previous_ids"] = input_ids[:, :-new]
        return inputs

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        previous_ids: Tensor | None = None,
        **kwargs: object,
    ) -> CausalLMOutputWithPast:
        """Return the logits (B, T, vocab_size), the loss where there are labels, and the cache.

        `labels` (B, T) are ignored where they are -100. `attention_mask` (B, S) covers cached and
        new tokens. `previous_ids` (B, n) are the last cached tokens, as many as a bigram table
        reads.
        """
        if labels is not None and use_cache is None:
            use_cache = False
        body = self.decoder(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            previous_ids,
        )
        hidden = body.last_hidden_state  # (B, T, dim)
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits, loss = self.decoder.logits(hidden), None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=body.past_key_values
        )


def _check_positions(
    positions: Tensor | None, mask: Tensor | None, start: int, length: int
) -> None:
    """Raise ValueError for positions that the mask does not imply.

    They are those of packed rows, whose attention would have to be cut.
    """
    if positions is None:
        return
    if mask is None:
        wrong = bool(
            (positions != torch.arange(start, start + length, device=positions.device)).any()
        )
    else:
        expected, real = mask.long().cumsum(1)[:, start:] - 1, mask[:, start:]
        wrong = bool(((positions != expected) & real).any())
    if wrong:
        raise ValueError(
            "position_ids: positions that start anew within a row (packing) are not supported; "
            "pad instead"
        )
