"""The size and the costs of one model, before anything is built."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flyweight.compression.quantize import quantized
from flyweight.config import schema
from flyweight.config.units import format_count, format_flops, format_size
from flyweight.planning.shown import Shown
from flyweight.spec import flops as cost, visits
from flyweight.tables.plain import plain_table
from flyweight.training.step_cost import StepCost

if TYPE_CHECKING:
    from rich.text import Text

    from flyweight.tables.engine import Table
    from flyweight.tables.plain import Cells


@dataclass(frozen=True, repr=False)
class ModelPlan(Shown):
    """The size and the costs of one model.

    `kv_bytes_per_token` and `weight_bytes` count float32 unless quantized. `kv_bytes` are those of
    a whole context, which a sliding window bounds. `weights` has the bytes by dtype: with floats in
    32 or 16 bits and, of a model that is not quantized, as `quantize` would store it. `depth` is
    how many layers a token goes through in a decoder. Where a loop is switched on late,
    `training_per_token` is the mean over a whole run. `trainable` parameters are those that a
    training moves.
    """

    parameters: cost.Parameters
    trainable: int
    forward_per_token: float
    training_per_token: float
    kv_bytes_per_token: int
    kv_bytes: int
    weight_bytes: int
    weights: dict[str, int]
    depth: int | None
    context: int

    @classmethod
    def of(
        cls,
        config: schema.Architecture,
        train: schema.Train | None = None,
        trains: schema.TrainedPart = "full",
    ) -> ModelPlan:
        """Return the plan of a resolved config.

        Training counts the optimizer of `train` (default AdamW) at its batch. `trains` is the part
        of the model that trains.
        """
        config = config.resolved()
        assert config.context
        train = train or schema.Train()
        tokens = train.batch * config.context
        cost_of_step = StepCost.of(config, train, config.context, trains=trains)
        return cls(
            parameters=cost.parameters(config),
            trainable=cost.trained_parameters(config, trains),
            forward_per_token=cost.forward_flops(config, config.context) / config.context,
            training_per_token=cost_of_step.mean / tokens,
            kv_bytes_per_token=cost.kv_bytes_per_token(config),
            kv_bytes=cost.kv_bytes(config, config.context),
            weight_bytes=cost.weight_bytes(config),
            weights=_weights(config),
            depth=len(visits.slots(config)) if isinstance(config, schema.ModelConfig) else None,
            context=config.context,
        )

    def json(self) -> dict[str, Any]:
        """Return INTERFACE's keys."""
        return {
            "parameters": {**asdict(self.parameters), "trainable": self.trainable},
            "flops": {
                "forward_per_token": self.forward_per_token,
                "training_per_token": self.training_per_token,
            },
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_bytes": self.kv_bytes,
            "weight_bytes": self.weight_bytes,
            "weight_bytes_by_dtype": self.weights,
            "effective_depth": self.depth,
            "context": self.context,
        }

    def verdict(self) -> list[Text | str]:
        """Return the size of the model in a sentence."""
        sizes = " or ".join(
            f"{format_size(size)} in {dtype}" for dtype, size in self.weights.items()
        )
        return [f"{format_count(self.parameters.unique)} parameters: {sizes}."]

    def table(self) -> Table[Cells]:
        """Return the parameters, the costs and the sizes, each with what it is of."""
        context = f"{self.context:,} tokens"
        rows: list[tuple[str, Cells]] = [("parameters", (f"{self.parameters.unique:,}", "stored"))]
        if self.parameters.total != self.parameters.unique:
            rows.append(("", (f"{self.parameters.total:,}", "as used, shared ones each time")))
        if self.trainable != self.parameters.unique:
            rows.append(("", (f"{self.trainable:,}", "trained, the others are frozen")))
        for part, count in self.parameters.by_part.items():
            if count:
                rows.append((f"  {part}", (f"{count:,}", "")))
        if self.depth is not None:
            rows.append(("depth", (f"{self.depth}", "layers that a token goes through")))
        forward, training = map(format_flops, (self.forward_per_token, self.training_per_token))
        rows += [
            ("forward pass", (forward, f"per token, at a context of {context}")),
            ("training", (training, "per token, optimizer included")),
            ("KV cache", (format_size(self.kv_bytes_per_token), "per token")),
            ("", (format_size(self.kv_bytes), f"for {context}")),
        ]
        rows += [
            ("weights", (format_size(size), f"in {dtype}")) for dtype, size in self.weights.items()
        ]
        return plain_table(("what", "amount", "of what"), rows, wraps=("of what",))

    def remarks(self) -> list[str]:
        """Return nothing: a config is counted, and nothing is assumed."""
        return []


def _weights(config: schema.Architecture) -> dict[str, int]:
    sizes = {"float32": cost.weight_bytes(config, 4), "bfloat16": cost.weight_bytes(config, 2)}
    if all(kind.plain for kind in config.linears.values()):
        for kind in (schema.Int8(), schema.NF4(), schema.Int4(), schema.Int3()):
            sizes[kind.kind] = cost.weight_bytes(quantized(config, kind, schema.Int8()))
    return sizes
