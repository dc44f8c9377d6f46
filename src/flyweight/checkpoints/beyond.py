"""What no native Hugging Face family holds."""

from __future__ import annotations

from flyweight.config import schema


def beyond_every_family(config: schema.ModelConfig) -> list[str]:
    """Return what no family has, each with the field of a model that would do."""
    reasons = []
    if config.sharing.kind != "none":
        reasons.append(
            f"sharing {config.sharing.kind}: layers are used more than once (model.sharing=none)"
        )
    if config.embedding.bigram.kind != "none":
        reasons.append("it has a bigram table (model.embedding.bigram=none)")
    if config.embedding.rank is not None:
        reasons.append(
            f"its embedding is factorised through {config.embedding.rank} channels "
            f"(model.embedding.rank=null)"
        )
    if config.head.softcap is not None:
        reasons.append("it has a logit softcap (model.head.softcap=null)")
    if config.head.bias:
        reasons.append("its head has a bias (model.head.bias=false)")
    if config.norm.placement != "pre":
        reasons.append("its norms stand after the branches (model.norm.placement=pre)")
    if not config.norm.final:
        reasons.append("it has no final norm (model.norm.final=true)")
    if config.residual.kind != "add":
        reasons.append(
            f"its residual branches are joined by {config.residual.kind}, not added "
            f"(model.residual=add)"
        )
    if config.thinking.kind != "none":
        reasons.append(
            "it thinks: several passes with a memory of keys and values (model.thinking=none)"
        )
    if config.mlp.rank is not None:
        reasons.append(
            f"its MLP goes through a bottleneck of {config.mlp.rank} channels (model.mlp.rank=null)"
        )
    if config.attention.gain:
        reasons.append("it has attention gains (model.attention.gain=false)")
    if config.mixture is not None:
        reasons.append(
            "it is a mixture with n-gram counts or a pointer: export the network that it was "
            "made from"
        )
    if not all(kind.plain for kind in config.linears.values()):
        reasons.append("it is quantized")
    return reasons
