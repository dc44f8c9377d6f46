"""What the layers of a model read on a calibration text, gathered one block at a time.

Whoever rounds or prunes a layer can weigh the changes by its inputs. Later blocks read what the
changed earlier ones make of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from flyweight.checkpoints import load_any
from flyweight.checkpoints.reading import check_reads
from flyweight.config.schema import Architecture, Calibration, LinearConfig, ModelConfig
from flyweight.data.corpus import Corpus, Split
from flyweight.data.windows import Windows
from flyweight.errors import RequestError
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import LinearLayer, layers_of
from flyweight.model.lstm import LstmLayer
from flyweight.spec.visits import reads_the_last_visit, visits
from flyweight.store.stage import Inputs

BATCH_TOKENS = 4096
"""Tokens that are read at once."""

HEAD = "head.linear"

Progress = Callable[[float], None]
"""Called with the fraction of the work that is done."""


def ignore(_: float) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class LayerInputs:
    """What linear layers read: the mean of x x^T over all tokens and visits, (in, in) float32.

    `names` are several layers where all read the same, such as query, key and value. `reads` counts
    the vectors x.
    """

    names: tuple[str, ...]
    gram: Tensor
    reads: int

    def norms(self) -> Tensor:
        """Return the root mean square of each input (in,)."""
        return self.gram.diagonal().clamp(min=0).sqrt()


def calibration_window(calibration: Calibration, config: load_any.AnyConfig) -> int:
    """Return how many tokens of the calibration text a model reads at once."""
    return load_any.window(config) if calibration.data is None else calibration.data.context


def check_calibration(calibration: Calibration, config: load_any.AnyConfig, inputs: Inputs) -> None:
    """Raise RequestError where a stage's text is not one that its `input` can be calibrated on.

    It is too short, cut by another tokenizer, or read in windows longer than the model's context.
    """
    window = calibration_window(calibration, config)
    check_reads(config, "input", inputs, window, "calibration.data")
    split = Corpus.open(inputs.text(), verify=False).split(calibration.split)
    try:
        check_length(calibration, config, len(split.tokens))
    except RequestError as error:
        raise RequestError(f"stages.{inputs.name}.{error}") from error


def check_length(calibration: Calibration, config: load_any.AnyConfig, held: int | None) -> None:
    """Raise RequestError where no window fits into the calibration, or the text has too few tokens.

    `held` are the tokens of the training split, where they are known.
    """
    window = calibration_window(calibration, config)
    if calibration.tokens < window:
        raise RequestError(
            f"calibration.tokens: {calibration.tokens:,} are less than one window of {window:,} "
            f"tokens; ask for at least as many"
        )
    if held is not None and held <= calibration.tokens:
        raise RequestError(
            f"calibration.tokens: {calibration.tokens:,} are not fewer than the {held:,} tokens of "
            f"the training split; ask for fewer, or name a longer text with calibration.data"
        )


def calibration_batches(
    calibration: Calibration, config: load_any.AnyConfig, inputs: Inputs, seed: int
) -> list[Tensor]:
    """Return the calibration text as batches of tokens (B, T), in windows that `seed` draws.

    Isolated documents are read from their beginnings, in rows of their own.

    Raises RequestError as `check_calibration` does.
    """
    check_calibration(calibration, config, inputs)
    window = calibration_window(calibration, config)
    split = Corpus.open(inputs.text(), verify=False).split(calibration.split)
    if calibration.data is not None and calibration.data.documents == "isolated":
        return _document_batches(split, calibration.tokens, window, seed)
    rows = calibration.tokens // window
    size = max(1, min(BATCH_TOKENS // window, rows))
    source = Windows(split, window, size, seed)
    starts = range(0, rows, size)
    return [
        source.batch(step, slice(min(size, rows - start))).inputs
        for step, start in enumerate(starts)
    ]


def _document_batches(split: Split, tokens: int, window: int, seed: int) -> list[Tensor]:
    """Return the first tokens of documents, each in a row by itself, as batches (B, T).

    Rows are as long as half of the documents, and at most a window. The seed draws the order.
    """
    ends = np.append(split.documents[1:], len(split.tokens))
    lengths = ends - split.documents
    length = max(2, min(window, int(np.median(lengths))))
    starts = split.documents[lengths >= length]
    starts = np.random.default_rng(seed).permutation(starts)[: max(1, tokens // length)]
    rows = np.stack([split.tokens[start : start + length] for start in starts])
    size = max(1, BATCH_TOKENS // length)
    return list(torch.from_numpy(rows.astype(np.int64)).split(size))


def layer_inputs(
    model: Model, batches: Sequence[Tensor], progress: Progress = ignore
) -> Iterator[LayerInputs]:
    """Yield what each linear layer of the blocks, and of a head of its own, reads, in their order.

    `batches` are tokens (B, T). The layers of a block come one after another. They may be changed
    or replaced (`set_submodule`) until a layer of the next block is asked for; from then on the
    text goes through the changed ones. All visits of a shared layer count. Tables are not read by
    products and not among the layers; neither is a head that is tied to one. The model is left in
    evaluation mode.
    """
    model.eval()
    parts = parts_of(model.config)
    text = _Text(model, batches)
    for number, part in enumerate(parts):
        found = text.gather(part, lambda done, at=number: progress((at + done) / len(parts)))
        while found:
            yield found.pop(0)


def calibrated_layers(config: Architecture, names: Sequence[str]) -> list[str]:
    """Return those of a model's linear layers whose inputs `layer_inputs` gathers."""
    return [name for name in names if any(_belongs(name, part) for part in parts_of(config))]


def parts_of(config: Architecture) -> list[str]:
    """Return the modules whose layers are gathered together, in the order in which they run."""
    layers = 0 if isinstance(config, LinearConfig) else config.layers
    parts = [f"blocks.{layer}" for layer in range(layers)]
    tied = config.embedding.tied if isinstance(config, ModelConfig) else _baseline_tied(config)
    return parts if tied else [*parts, HEAD]


def _baseline_tied(config: Architecture) -> bool:
    return bool(getattr(config, "tied", False))


def _belongs(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


class _Stop(Exception):
    """Ends a forward pass of which nothing more is needed."""


class _Text:
    """The calibration text on its way through a model.

    In a decoder whose visits read the one before alone, none that is finished is computed again:
    `states` (B, T, dim) are what the first `finished` visits have made of each batch.
    """

    def __init__(self, model: Model, batches: Sequence[Tensor]) -> None:
        self.model = model
        self.batches = batches
        self.resumes = isinstance(model, Decoder) and reads_the_last_visit(model.config)
        self.order: list[int] = []
        if isinstance(model, Decoder):
            self.order = [visit.layer for visit in visits(model.config)]
        self.states: list[Tensor] = []
        self.finished = 0

    def gather(self, part: str, progress: Progress) -> list[LayerInputs]:
        """Return what the layers of one part read on the whole text."""
        layers = {name: layer for name, layer in layers_of(self.model) if _belongs(name, part)}
        sums = _Sums(layers, alike=self.resumes)
        hooks = [] if part == HEAD else [sums.hook(name, layer) for name, layer in layers.items()]
        try:
            self._read(part, sums, progress)
        finally:
            for hook in hooks:
                hook.remove()
        return sums.found()

    @torch.no_grad()
    def _read(self, part: str, sums: _Sums, progress: Progress) -> None:
        visited = [at for at, layer in enumerate(self.order) if f"blocks.{layer}" == part]
        begins = visited[0] if visited else len(self.order)
        last = visited[-1] if visited else None
        states: list[Tensor] = []
        for number, tokens in enumerate(self.batches):
            run = partial(self._block, number=number, begins=begins, last=last, states=states)
            hidden = self._hidden(tokens.to(self.model.device), run)
            if part == HEAD and hidden is not None:
                sums.add(HEAD, hidden[..., : sums.layers[HEAD].in_features])
            progress((number + 1) / len(self.batches))
        if self.resumes and begins:
            self.states, self.finished = states, begins

    def _hidden(self, tokens: Tensor, run: Callable[..., object]) -> Tensor | None:
        """Return the hidden states of tokens (B, T), or None where the pass ended before them."""
        place = 0

        def through(block: nn.Module, *reads: object) -> object:
            nonlocal place
            place += 1
            return run(block, reads, place - 1)

        unrolled = [layer for layer in self.model.modules() if isinstance(layer, LstmLayer)]
        try:
            for layer in unrolled:
                layer.fuses = False  # so that its matrices are called one by one
            if self.resumes:
                self.model.through = through  # pyright: ignore - a decoder
            return self.model.hidden(tokens)
        except _Stop:
            return None
        finally:
            for layer in unrolled:
                layer.fuses = True
            if self.resumes:
                self.model.through = None  # pyright: ignore - a decoder

    def _block(
        self,
        block: nn.Module,
        reads: tuple[object, ...],
        place: int,
        *,
        number: int,
        begins: int,
        last: int | None,
        states: list[Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run a visit, unless it is finished; keep what goes into the first that is not."""
        if place < self.finished:
            x = self.states[number]
            result = x, (x, x)  # nothing reads its keys and values
        else:
            result = block(*reads)
        if place == begins - 1:
            states.append(result[0])
        if place == last:
            raise _Stop
        return result


class _Sums:
    """The sums of x x^T for some layers; `alike` lets layers that read the same share one."""

    def __init__(self, layers: dict[str, LinearLayer], alike: bool) -> None:
        self.layers = layers
        self.alike = alike
        self.owner: dict[str, str] = {}
        self.gram: dict[str, Tensor] = {}
        self.reads: dict[str, int] = {}
        self.latest: tuple[str, Tensor] | None = None

    def hook(self, name: str, layer: LinearLayer) -> torch.utils.hooks.RemovableHandle:
        """Gather what a layer reads until the handle is removed."""
        return layer.register_forward_pre_hook(lambda _, reads: self.add(name, reads[0]))

    def add(self, name: str, x: Tensor) -> None:
        """Add what a layer reads, x (..., in)."""
        if name not in self.owner:
            shared = self.alike and self.latest is not None and self.latest[1] is x
            self.owner[name] = self.latest[0] if shared and self.latest is not None else name
        if self.owner[name] != name:
            return
        self.latest = name, x
        flat = x.detach().reshape(-1, x.shape[-1]).float()  # (N, in)
        if name not in self.gram:
            self.gram[name] = flat.new_zeros(flat.shape[1], flat.shape[1])
            self.reads[name] = 0
        self.gram[name].addmm_(flat.T, flat)
        self.reads[name] += len(flat)

    def found(self) -> list[LayerInputs]:
        """Return the means, in the order of the layers; the sums are given away."""
        return [
            LayerInputs(
                tuple(name for name in self.layers if self.owner.get(name) == first),
                self.gram.pop(first).div_(self.reads[first]),
                self.reads[first],
            )
            for first in self.layers
            if first in self.gram
        ]
