"""A metric: how often the next token is among the five most probable, higher is better."""

import flyweight as fw


def top_5(logits, targets):
    """Return 1 where the target (n,) is among the five largest logits (n, V), else 0."""
    best = logits.topk(min(5, logits.shape[-1])).indices  # (n, 5)
    return (best == targets[:, None]).any(-1).float()


def register():
    """Add the metric."""
    fw.register_metric(TOP_5)


TOP_5 = fw.MetricKind(
    name="top_5",
    title="top 5",
    unit="share of targets",
    better="higher",
    about="share of targets among the five most probable tokens",
    score=top_5,
)
