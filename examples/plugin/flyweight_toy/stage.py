"""A stage that shrinks weights towards zero: `{stage: shrink, input: student, by: 0.01}`."""

import shutil
from typing import Annotated, ClassVar, Literal

from pydantic import Field

import flyweight as fw


class Shrink(fw.StageConfig):
    """Multiply every weight by 1 - `by`."""

    stage: Literal["shrink"]
    input: str
    by: Annotated[float, Field(ge=0, lt=1)] = 0.01

    makes_model: ClassVar[bool] = True
    spends: ClassVar[tuple[str, ...]] = ("total_flops", "total_seconds")
    compresses: ClassVar[bool] = True

    @classmethod
    def describe(cls, origin: fw.Origin) -> str:
        """Return how the model came about, as its card says it."""
        return f"{origin.parent('input')} with weights that are {origin.config['by']:.0%} smaller"


class ShrinkStage(fw.Stage[Shrink]):
    """Write the input's model with smaller weights."""

    version = 1

    def run(self, config, inputs, context, draft):
        """Write `model/` and return what it had cost."""
        from safetensors.torch import load_file, save_file

        shutil.copytree(inputs.model("input"), draft.path / "model")
        file = draft.path / "model" / "model.safetensors"
        save_file({name: (1 - config.by) * each for name, each in load_file(file).items()}, file)
        return {name: inputs.spent(name) for name in config.spends}


def register():
    """Add the stage."""
    fw.register_stage(Shrink, STAGE)


STAGE = ShrinkStage()
