"""The search of `compress`: ways to a smaller model, made and measured on validation text.

Every try is an ordinary artifact, so what is finished is found again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flyweight.checkpoints import load_any
from flyweight.compression.calibration import calibration_batches
from flyweight.compression.choice import fits
from flyweight.compression.mix import rounding_costs, share_out
from flyweight.compression.ways import Recovery, Way, first_fits, mixed, steps, ways
from flyweight.config import schema
from flyweight.config.limits import Limit
from flyweight.config.units import format_size, size_word
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder
from flyweight.pipeline.runner import Runner, StageResult
from flyweight.records.bench import Speed
from flyweight.records.compression import Tried
from flyweight.records.likelihood import Likelihood
from flyweight.records.metric import Metric
from flyweight.spec import flops
from flyweight.store.artifact import Artifact
from flyweight.store.stage import Inputs


@dataclass
class Search:
    """Tries of one model within one limit.

    `reference` names the model in recipes. `data` is the text to measure on, None for the one that
    the model was trained on.
    """

    runner: Runner
    source: Artifact
    reference: str
    config: schema.ModelConfig
    limit: Limit
    data: schema.Data | None = None
    made: dict[str, StageResult] = field(default_factory=dict[str, StageResult])
    stages: dict[str, schema.StageConfig] = field(default_factory=dict[str, schema.StageConfig])
    """The stages of a recipe that makes what was tried, and measures it on validation text."""
    speeds: dict[str, float] = field(default_factory=dict[str, float])

    def validation(self, artifact: Artifact, name: str) -> Metric:
        """Return the bits per byte of a model on the validation split."""
        config = self.evaluation(name)
        measured = self.runner.make(name, config, {"input": artifact}).artifact
        return Likelihood.from_metrics(measured.metrics()).bits_per_byte

    def evaluation(self, name: str) -> schema.Evaluate:
        """Return the stage that measures a way on the validation split."""
        return schema.Evaluate(stage="evaluate", input=name, data=self.data, split="validation")

    def worth(self, found: Sequence[Way]) -> list[Way]:
        """Return the ways that are worth a try.

        Bytes are counted. Speeds are measured of random weights in the same shapes, before anything
        is trained. Raises RequestError where no way is fast enough.
        """
        if self.limit.kind == "speed":
            return self._fast(found)
        found = [way for way in found if "int8_dynamic" not in way.form]  # is faster, no smaller
        if self.limit.kind == "loss":
            return found
        # Int8 is smaller than any share of a dense model that is left here, and loses less.
        known = [way for way in found if way.form != "dense"]
        within = first_fits(known, lambda way: way.bytes <= self.limit.value)
        return sorted(within, key=lambda way: -way.left)  # what removes parts has to beat the rest

    def _fast(self, found: Sequence[Way]) -> list[Way]:
        """Return of each form the way that removes least and is fast enough.

        What has fewer parts is faster, so few shapes are measured.
        """
        forms: dict[str, list[Way]] = {}
        for way in sorted(found, key=lambda way: -way.left):
            # Zeros are no faster as a rule, and a token looks up one row of a table.
            if way.config is not None and "tables" not in way.form:
                forms.setdefault(way.form, []).append(way)
        within = set[str]()
        for form in forms.values():
            place = bisect_left(form, True, key=lambda way: self.speed(way) >= self.limit.value)
            within |= {way.name for way in form[place : place + 1]}
        if not within:
            best = max((form[-1] for form in forms.values()), key=self.speed)
            raise RequestError(
                f"--speed: no way is so fast here; the nearest is {best.name}, at "
                f"{self.speed(best):.2f}x"
            )
        return [way for way in found if way.name in within]

    def speed(self, way: Way) -> float:
        """Return how many times as fast as the model a way's shape generates."""
        assert way.config is not None
        return self._rate(way.config) / self._rate(self.config)

    def _rate(self, config: schema.Architecture) -> float:
        """Return the tokens per second that random weights in a shape generate, one at a time."""
        key = config.model_dump_json()
        if key not in self.speeds:
            # No run needs a shape later: it is not noted, so `gc` may take it.
            alone = Runner(replace(self.runner.context, note=lambda _: None))
            fresh = schema.Initialise(stage="init", model=config)
            shape = alone.make("shape", fresh, {}).artifact
            bench = schema.Bench(stage="bench", input="shape")
            measured = alone.make("shape", bench, {"input": shape}).artifact
            speed = Speed.from_metrics(measured.metrics())
            self.speeds[key] = speed.decode_tokens_per_s.value
        return self.speeds[key]

    def mixed(
        self, text: Artifact, calibration: schema.Calibration, recovery: Recovery | None
    ) -> list[Way]:
        """Return the ways that share out a limit of bytes by what rounding each matrix costs.

        The costs are measured on the calibration `text`, a packed corpus. There are none for other
        limits, and where all kinds take too much.
        """
        if self.limit.kind != "bytes":
            return []
        inputs = Inputs("compress", {"input": self.source}, text)
        seed = self.runner.context.runtime.seed
        batches = calibration_batches(calibration, self.config, inputs, seed)
        device = self.runner.context.runtime.device
        model = load_any.decoder(inputs.model("input"), device, "compress")
        assert isinstance(model, Decoder)
        costs = rounding_costs(model, batches)
        kinds = share_out(self.config, costs, int(self.limit.value))
        if kinds is None:
            return []
        return mixed(self.config, self.reference, kinds, calibration, recovery)

    def tries(self, worth: Sequence[Way], base: float) -> Iterator[Tried]:
        """Make the ways in turn and yield each with its measurements.

        For a limit of loss, a way that is not plain has to be smaller than the best one so far. One
        that loses too much ends its form: to remove more would lose more. A model with fewer parts
        that loses too much as it is, or more than the best so far, is not quantized, and ends the
        removal of parts.
        """
        smallest, ended = float("inf"), set[str]()
        loss = self.limit.kind == "loss"
        most = base * (1 + self.limit.value) if loss else float("inf")
        for way in worth:
            skips = way.bytes >= smallest or way.form in ended
            if loss and not way.plain and skips:
                continue
            if way.fewer_parts and ("parts" in ended or self._before(way) > most):
                ended.add("parts")
                continue
            one = self._try(way)
            if not fits(one, self.limit, base):
                ended.add(way.form)
            elif loss:
                smallest = min(smallest, one.bytes)
            else:
                most = min(most, one.bits_per_byte.value)
            yield one

    def _before(self, way: Way) -> float:
        """Return the bits per byte of a model with fewer parts before it is quantized."""
        kept = (name for name, stage in way.stages.items() if stage.stage != "quantize")
        *_, name = kept
        return self._measured(way, name).value

    def _measured(self, way: Way, name: str) -> Metric:
        """Return the bits per byte, on validation text, of a model that a way makes."""
        self.stages[f"{name}-validation"] = self.evaluation(name)
        return self.validation(self._made(way, name), name)

    def _made(self, way: Way, last: str) -> Artifact:
        """Make the stages of a way up to one of them, each once, and return that one's model."""
        for name, config in way.stages.items():
            if name not in self.made:
                inputs = {
                    role: self.made[source].artifact if source in self.made else self.source
                    for role, source in config.dependencies().items()
                }
                self.made[name] = self.runner.make(name, config, inputs)
                self.stages[name] = config
            if name == last:
                break
        return self.made[last].artifact

    def _try(self, way: Way) -> Tried:
        """Make the stages of a way, each once, and measure the last on validation text."""
        result = self._made(way, way.name)
        kept = load_any.own_config(result.path / "model", way.name)
        parts = [self.made[name] for name in way.stages]
        return Tried(
            name=way.name,
            id=result.id,
            steps=steps(way),
            bytes=flops.weight_bytes(kept),
            bits_per_byte=self._measured(way, way.name),
            speed=self.speed(way) if self.limit.kind == "speed" else None,
            plain=way.plain,
            seconds=round(sum(part.artifact.facts["took"] for part in parts), 3),
            tokens=trained_tokens(parts),
        )

    def tokens(self) -> int:
        """Return the tokens that all tries together were trained on."""
        return trained_tokens(list(self.made.values()))


def check_bytes(config: schema.ModelConfig, reference: str, limit: Limit) -> None:
    """Raise RequestError for a limit of bytes that the model meets as it is, or that no way can."""
    if limit.kind != "bytes":
        return
    whole = flops.weight_bytes(config)
    if whole <= limit.value:
        raise RequestError(
            f"--bytes: the model takes {format_size(whole)} already, which is within the limit"
        )
    least = min(ways(config, reference), key=lambda way: way.bytes)
    if least.bytes > limit.value:
        raise RequestError(
            f"--bytes: no way is so small; the nearest is {least.name}, which takes "
            f"--bytes {size_word(least.bytes)}"
        )


def trained_tokens(parts: Sequence[StageResult]) -> int:
    """Return the tokens that stages were trained on."""
    trained = (part for part in parts if isinstance(part.config, schema.TrainingStage))
    return sum(part.artifact.facts["tokens"] for part in trained)


def original_tokens(artifact: Artifact) -> int | None:
    """Return the tokens that a model was trained on; None where that is not known.

    A model that was made from another without training has those of the other.
    """
    if "tokens" in artifact.facts:
        return int(artifact.facts["tokens"])
    parent = artifact.identity["parents"].get("input")
    folder = artifact.path.parent / str(parent)
    if parent is None or not (Path(folder) / "manifest.json").is_file():
        return None
    return original_tokens(Artifact.open(folder))
