"""The config of our own model type for transformers' AutoConfig."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from flyweight.checkpoints.flyweight_type import OWN, own_fields
from flyweight.config.schema import ModelConfig


class FlyweightConfig(PreTrainedConfig):
    """A `ModelConfig` for transformers: all of it under `flyweight`, the usual sizes beside it."""

    model_type = OWN
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(self, flyweight: dict[str, Any] | None = None, **fields: Any) -> None:
        if flyweight is not None:
            config = ModelConfig.model_validate(flyweight).resolved()
            fields = {**fields, **own_fields(config)}
            fields.pop(OWN)
            self.flyweight = config.model_dump(mode="json")
        super().__init__(**fields)

    @classmethod
    def of(cls, config: ModelConfig, **fields: object) -> FlyweightConfig:
        """Return the config of one of our models."""
        return cls(config.resolved().model_dump(mode="json"), **fields)

    @property
    def model(self) -> ModelConfig:
        """The decoder's config; raise ValueError where the folder had none."""
        if not getattr(self, OWN, None):
            raise ValueError(
                "this config has no `flyweight` field, so it does not describe a model"
            )
        return ModelConfig.model_validate(self.flyweight)
