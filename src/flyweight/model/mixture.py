"""A network's predictions mixed with n-gram counts and a pointer into the context.

Exactly normalised.

Counts and pointer read tokens, which a hidden state does not hold. So each hidden state of such a
model carries columns of evidence behind the network's own: the numbers of the contexts that the
counts know, and the tokens that the pointer points at with their weights. Logits are then a
function of hidden states alone, as for every other model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flyweight.config.mixture import BUCKETS, CONFIDENCE, Counts, Mixture, Pointer
from flyweight.model.precision import without_autocast

CODE_STEPS = 1024
"""A share of probability is stored as a code c in 16 bits: 2^(-c / CODE_STEPS), rounded down."""
NOTHING = 2**15 - 1
"""The code of no share at all."""


@dataclass(frozen=True)
class _Level:
    """One order of the counts, unpacked: `keys` (U,) are context * vocabulary + token, ascending.

    `starts` (C + 1,) says where the n-grams of each context begin. `shares` (U,) are their
    discounted relative counts, `backoff` (C,) what each context leaves to the next shorter one.
    """

    keys: Tensor
    starts: Tensor
    shares: Tensor
    backoff: Tensor


class CountTables(nn.Module):
    """Pruned Kneser-Ney counts as a trie.

    An n-gram's context is the number of an n-gram one order down.

    Stored for order n: `tokens_n` (U,) last tokens, ascending within a context; `codes_n` (U,)
    int16; from order 2 on `starts_n` (C + 1,). What is left to shorter contexts follows from the
    codes, so that probabilities sum to one whatever was rounded.
    """

    def __init__(self, config: Counts, vocab_size: int) -> None:
        super().__init__()
        entries = config.entries
        assert entries is not None and len(entries) == config.order
        self.order, self.vocab_size = config.order, vocab_size
        token = torch.int16 if vocab_size <= 2**15 else torch.int32
        for n, size in enumerate(entries, start=1):
            self.register_buffer(f"tokens_{n}", torch.zeros(size, dtype=token))
            self.register_buffer(f"codes_{n}", torch.full((size,), NOTHING, dtype=torch.int16))
            if n > 1:
                starts = torch.zeros(entries[n - 2] + 1, dtype=torch.int32)
                self.register_buffer(f"starts_{n}", starts)
        self._unpacked: tuple[torch.device, list[_Level], Tensor] | None = None

    def levels(self) -> tuple[list[_Level], Tensor]:
        """Return every order, shortest first, and the unigram distribution (V,).

        Unpacked once a device.
        """
        device = self.get_buffer("tokens_1").device
        if self._unpacked is None or self._unpacked[0] != device:
            levels = [self._level(n) for n in range(1, self.order + 1)]
            first = levels[0]
            unigram = (first.backoff / self.vocab_size).expand(self.vocab_size).clone()
            unigram.index_add_(0, first.keys, first.shares)
            self._unpacked = (device, levels, unigram)
        return self._unpacked[1], self._unpacked[2]

    def _level(self, n: int) -> _Level:
        tokens, codes = self.get_buffer(f"tokens_{n}").long(), self.get_buffer(f"codes_{n}")
        shares = torch.where(codes == NOTHING, 0.0, torch.exp2(codes.float() / -CODE_STEPS))  # (U,)
        if n == 1:
            starts = torch.tensor([0, len(tokens)], device=tokens.device)
        else:
            starts = self.get_buffer(f"starts_{n}").long()
        lengths = starts.diff()  # (C,)
        context = torch.repeat_interleave(torch.arange(len(lengths), device=tokens.device), lengths)
        spent = torch.zeros(len(lengths), dtype=torch.float64, device=tokens.device)
        spent.index_add_(0, context, shares.double())
        backoff = (1 - spent).clamp(min=0).float()
        return _Level(context * self.vocab_size + tokens, starts, shares, backoff)

    def contexts(self, history: Tensor, length: int) -> Tensor:
        """Return the numbers of the contexts of the last `length` tokens of a history (B, S).

        The shape is (B, length, order - 1).

        Column n - 1 is the n-gram that ends with that token, or -1 where the counts have none.
        """
        levels, _ = self.levels()
        reach = min(history.shape[1], length + self.order - 2)
        tokens = history[:, history.shape[1] - reach :]  # (B, R)
        contexts = [_find(levels[0].keys, tokens, tokens < self.vocab_size)]
        for level in levels[1:-1]:
            shorter = F.pad(contexts[-1][:, :-1], (1, 0), value=-1)  # (B, R): one token earlier
            key = shorter * self.vocab_size + tokens
            contexts.append(_find(level.keys, key, (shorter >= 0) & (tokens < self.vocab_size)))
        return torch.stack([ids[:, reach - length :] for ids in contexts], -1)

    def distribution(self, contexts: Tensor) -> Tensor:
        """Return the next token's probabilities (N, V) after contexts (N, order - 1), float32."""
        levels, unigram = self.levels()
        rows = torch.arange(len(contexts), device=contexts.device)
        backoff = torch.ones(len(contexts), device=contexts.device)  # what longer contexts leave
        result = torch.zeros(len(contexts), self.vocab_size, device=contexts.device)
        for level, ids in zip(reversed(levels[1:]), reversed(contexts.unbind(1)), strict=True):
            context = ids.clamp(min=0)
            first = level.starts[context]
            lengths = torch.where(ids >= 0, level.starts[context + 1] - first, 0)  # (N,)
            row = torch.repeat_interleave(rows, lengths)
            offset = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
            entry = first[row] + offset
            token = level.keys[entry] % self.vocab_size
            result.view(-1).index_add_(
                0, row * self.vocab_size + token, level.shares[entry] * backoff[row]
            )
            backoff = backoff * torch.where(ids >= 0, level.backoff[context], 1.0)
        return result.addcmul_(backoff.unsqueeze(1), unigram)

    def confidence(self, contexts: Tensor) -> Tensor:
        """Return a number for how well the counts know each context: (N,).

        It is below order * BUCKETS, and joins the length of the longest known context with how much
        of the probability that context keeps.
        """
        levels, _ = self.levels()
        result = torch.zeros(len(contexts), dtype=torch.long, device=contexts.device)
        for n, (level, ids) in enumerate(zip(levels[1:], contexts.unbind(1), strict=True), start=1):
            confidence = 1 - level.backoff[ids.clamp(min=0)]
            bucket = (confidence * BUCKETS).long().clamp(max=BUCKETS - 1)
            result = torch.where((ids >= 0) & (confidence > 0), n * BUCKETS + bucket, result)
        return result


def _find(keys: Tensor, queries: Tensor, possible: Tensor) -> Tensor:
    """Return where `queries` is in ascending `keys`: -1 if missing or not `possible`."""
    at = torch.searchsorted(keys, queries.contiguous()).clamp(max=len(keys) - 1)
    return torch.where(possible & (keys[at] == queries), at, -1)


class Pointed(NamedTuple):
    """What a pointer points at: tokens, weights (..., places), the best match's length (...)."""

    tokens: Tensor
    weights: Tensor
    match: Tensor


def point(config: Pointer, history: Tensor, length: int, no_token: int) -> Pointed:
    """Return what followed the earlier matches of a history (B, S), at its last `length` places.

    At each place the history's end is matched with the history before it.

    `no_token` marks padding, which matches nothing. Weights are zero where there is no match.
    """
    batch, total = history.shape
    queries = torch.arange(total - length, total, device=history.device)  # (T,)
    earlier = torch.arange(total, device=history.device)  # (S,)
    alive = (earlier[None, :] < queries[:, None]).expand(batch, length, total)
    real = history != no_token
    match = torch.zeros(batch, length, total, dtype=torch.int8, device=history.device)
    for back in range(config.longest):
        if back >= total:
            break
        moved = F.pad(history, (back, 0), value=no_token)[
            :, :total
        ]  # (B, S): `back` tokens earlier
        solid = F.pad(real, (back, 0), value=False)[:, :total]
        same = moved[:, queries, None] == moved[:, None, :]  # (B, T, S)
        alive = alive & same & solid[:, None, :]
        match += alive
    order = match.float() * total + earlier  # later places first among equal matches
    places = min(config.places, total)
    best = order.topk(places, dim=-1).indices  # (B, T, K)
    lengths = match.gather(-1, best)  # (B, T, K)
    follower = (best + 1).clamp(max=total - 1).flatten(1)
    tokens = history.gather(1, follower).view_as(best)
    longest = lengths[..., 0].long()
    exponent = config.rate * (lengths.float() - longest.unsqueeze(-1).float())
    weights = torch.where(lengths > 0, exponent.exp(), 0.0)
    loops = repeating(history, length, config.period, no_token)
    weights = torch.where(loops[..., None], 0.0, weights)
    longest = torch.where(loops, 0, longest)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)
    tokens = torch.where(lengths > 0, tokens, 0)
    spare = config.places - places
    return Pointed(F.pad(tokens, (0, spare)), F.pad(weights, (0, spare)), longest)


def repeating(history: Tensor, length: int, period: int, no_token: int) -> Tensor:
    """Return where a history (B, S) repeats itself, of its last `length` tokens: (B, length).

    There the d tokens up to and with this one repeat the d before those.
    d is at most `period`, and padding repeats nothing.
    """
    total = history.shape[1]
    loops = torch.zeros(history.shape[0], length, dtype=torch.bool, device=history.device)
    for back in range(1, min(period, total // 2) + 1):
        same = (history[:, back:] == history[:, :-back]) & (history[:, back:] != no_token)
        run = F.pad(same.int().cumsum(1), (1, 0))  # (B, S - back + 1): equal tokens so far
        whole = F.pad(run[:, back:] - run[:, :-back] == back, (2 * back - 1, 0))  # (B, S)
        loops |= whole[:, total - length :]
    return loops


class MixtureHead(nn.Module):
    """Counts, pointer and gates of a decoder whose config has a `mixture`."""

    def __init__(self, config: Mixture, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.config, self.dim, self.vocab_size = config, dim, vocab_size
        self.counts = None if config.counts is None else CountTables(config.counts, vocab_size)
        self.gate = nn.Parameter(torch.zeros(config.experts, dim + CONFIDENCE))
        self.cases = nn.Parameter(torch.zeros(config.gate_rows, config.experts))

    def lookback(self, context: int) -> int:
        """Return how many earlier tokens the evidence of a new one depends on."""
        if self.config.pointer is not None:
            return context
        return 0 if self.counts is None else self.counts.order - 2

    def extended(self, hidden: Tensor, history: Tensor) -> Tensor:
        """Return hidden states (B, T, dim) with their evidence added: (B, T, dim + E).

        The evidence is of a history (B, S) that ends with the hidden states. `vocab_size` marks
        padding in the history.
        """
        length, columns = hidden.shape[1], [hidden.float()]
        if self.counts is not None:
            columns.append(self.counts.contexts(history, length).float())
        if self.config.pointer is not None:
            pointed = point(self.config.pointer, history, length, self.vocab_size)
            columns += [pointed.tokens.float(), pointed.weights, pointed.match.float()[..., None]]
        return torch.cat(columns, -1)

    def log_probabilities(self, hidden: Tensor, logits: Tensor) -> Tensor:
        """Return the mixture's log-probabilities (N, V).

        `hidden` (N, dim + E) is extended, `logits` (N, V) are the network's.
        """
        experts = self.experts(hidden, logits)
        gates = self.gates(hidden, experts[0]).exp()  # (N, experts)
        mixed = experts[0].exp() * gates[:, :1]
        for index, expert in enumerate(experts[1:], start=1):
            mixed = torch.addcmul(mixed, expert, gates[:, index : index + 1])
        return mixed.clamp(min=torch.finfo(torch.float32).tiny).log()

    def experts(self, hidden: Tensor, logits: Tensor) -> list[Tensor]:
        """Return the network's log-probabilities, then the others' probabilities: (N, V) each."""
        experts = [F.log_softmax(logits.float(), -1)]
        evidence = hidden[:, self.dim :]
        if self.counts is not None:
            experts.append(self.counts.distribution(evidence[:, : self.counts.order - 1].long()))
        if self.config.pointer is not None:
            places = self.config.pointer.places
            tokens, weights = evidence[:, -2 * places - 1 : -1].split(places, -1)
            experts.append(torch.zeros_like(experts[0]).scatter_add_(1, tokens.long(), weights))
        return experts

    def gates(self, hidden: Tensor, network: Tensor) -> Tensor:
        """Return the log of every expert's share (N, experts).

        `network` (N, V) is the network's log-probabilities.
        """
        return self.shares(*self.features(hidden, network))

    def features(self, hidden: Tensor, network: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the gates read.

        It is numbers (N, dim + 2), a case (N,), and which experts speak (N, experts).
        """
        confidence = torch.stack((-(network.exp() * network).sum(-1), network.amax(-1)), -1)
        numbers = torch.cat((hidden[:, : self.dim].float(), confidence), -1)
        case = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        speaks = torch.ones(
            len(hidden), self.config.experts, dtype=torch.bool, device=hidden.device
        )
        if self.counts is not None:
            contexts = hidden[:, self.dim : self.dim + self.counts.order - 1].long()
            case = self.counts.confidence(contexts)
        if self.config.pointer is not None:
            match = hidden[:, -1].long()
            case = case * (self.config.pointer.longest + 1) + match
            speaks[:, -1] = match > 0
        return numbers, case, speaks

    def shares(self, numbers: Tensor, case: Tensor, speaks: Tensor) -> Tensor:
        """Return the log of every expert's share (N, experts) from `features`.

        Silent experts have none.
        """
        with without_autocast(numbers):
            scores = numbers @ self.gate.float().T + self.cases.float()[case]
        return F.log_softmax(scores.masked_fill(~speaks, -torch.inf), -1)
