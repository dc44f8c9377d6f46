"""Any model of ours from its config.

All of them are called alike: `hidden` and `logits` (and `forward`, which is both), `output`,
`output_of` and `softcap` for objectives that compute head and loss together, `new_cache` for
generation, `config`, `device` and `dtype`.
"""

from __future__ import annotations

from typing import Any

from flyweight.config import schema
from flyweight.model.decoder import Decoder
from flyweight.model.lstm import LSTM
from flyweight.model.ngram import NGram

Model = Decoder | NGram | LSTM


def build(config: schema.Architecture, seed: int = 0) -> Model:
    """Return a new model of this config with random weights.

    Raises RequestError as its class does.
    """
    return MODELS[type(config)](config, seed)


MODELS: dict[type[schema.Strict], Any] = {
    schema.ModelConfig: Decoder,
    schema.LinearConfig: NGram,
    schema.MlpConfig: NGram,
    schema.LstmConfig: LSTM,
}
