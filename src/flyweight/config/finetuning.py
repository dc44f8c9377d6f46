"""What a finished model becomes when it is fine-tuned: its config tells all of it."""

from __future__ import annotations

from collections.abc import Sequence

from flyweight.config.adapters import Adapter, Frozen, Full, Lora, Method, shared_length
from flyweight.config.baselines import Architecture
from flyweight.config.decoder import ModelConfig
from flyweight.config.layers import Learned
from flyweight.config.linear_kinds import Dense
from flyweight.errors import RequestError


def tuned_config(base: Architecture, method: Method) -> Architecture:
    """Return the config of a model like `base` after it was fine-tuned by `method`.

    Of `frozen` it has a dense head of its own, so that the table of the inputs stays as it is. An
    adapter is added behind those that are there, and trained further where it is among them.
    Raises RequestError for a prefix that leaves no position for a text.
    """
    if isinstance(method, Full) or not isinstance(base, ModelConfig):
        return base
    base = base.resolved()
    if not isinstance(method, Frozen):
        if any(_unmasked(method) == _unmasked(adapter) for adapter in base.adapters):
            return base
        return with_adapters(base, [method])
    linears = {name: kind for name, kind in base.linears.items() if name != "head.linear"}
    if base.linears:
        linears = {"head.linear": Dense(), **linears}
    embedding = base.embedding.model_copy(update={"tied": False})
    return base.model_copy(update={"embedding": embedding, "linears": linears})


def _unmasked(adapter: Adapter) -> Adapter:
    """Return an adapter as it was before it was pruned."""
    return adapter.model_copy(update={"masked": False}) if isinstance(adapter, Lora) else adapter


def with_adapters(config: ModelConfig, adapters: Sequence[Adapter]) -> ModelConfig:
    """Return the config of a model with more adapters behind those that it has.

    A prefix in the text's softmax takes the first of learned positions, so that a text has fewer:
    `context` is what is left of them. Raises RequestError where nothing is left.
    """
    update: dict[str, object] = {"adapters": (*config.adapters, *adapters)}
    taken = shared_length(adapters)
    if taken and config.context and isinstance(config.position, Learned):
        if taken >= config.context:
            raise RequestError(
                f"prefix.length: {taken} keys in the text's softmax take as many of the model's "
                f"{config.context} learned positions, and none is left for a text; choose fewer, "
                f"or softmax: own"
            )
        update["context"] = config.context - taken
    return config.model_copy(update=update)
