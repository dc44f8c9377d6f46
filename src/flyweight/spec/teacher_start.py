"""Which parts of a teacher a student can begin with."""

from __future__ import annotations

from collections.abc import Iterator

from flyweight.config.schema import Architecture, FromTeacher, ModelConfig, Rope


def teacher_layers(
    start: FromTeacher, student: ModelConfig, teacher: ModelConfig
) -> tuple[int, ...]:
    """Return the teacher's layer for each layer of the student, the first and last among them."""
    if start.layers != "even":
        return start.layers
    last = max(1, student.layers - 1)
    return tuple(round(place * (teacher.layers - 1) / last) for place in range(student.layers))


def start_faults(
    start: FromTeacher, student: Architecture, teacher: Architecture | None
) -> Iterator[str]:
    """Yield why a student cannot begin with parts of a teacher, below `start`.

    A teacher that is not one of our decoders has no config here.
    """
    for role, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, ModelConfig):
            yield f"start: the {role} is not a decoder of ours; import it, or use start: random"
        elif any(not kind.plain for kind in model.linears.values()):
            yield f"start: the {role}'s matrices are packed; use a dense one, or start: random"
        elif model.adapters or model.blocks or model.mixture or model.embedding.rank:
            yield (
                f"start: the {role} has adapters, a mixture, a factorised embedding or layers that "
                f"differ; use a plain one, or start: random"
            )
    if isinstance(student, ModelConfig) and isinstance(teacher, ModelConfig):
        yield from _kinds(student, teacher)
        yield from _sizes(student, teacher)
        yield from _layers(start, student, teacher)


def _kinds(student: ModelConfig, teacher: ModelConfig) -> Iterator[str]:
    for name, own, theirs in (
        (
            "attention.value_residual",
            student.attention.value_residual,
            teacher.attention.value_residual,
        ),
        ("skips", student.skips, teacher.skips),
        ("attention.gate", student.attention.gate, teacher.attention.gate),
        ("mlp.kind", student.mlp.kind, teacher.mlp.kind),
        ("norm.kind", student.norm.kind, teacher.norm.kind),
        ("position.kind", student.position.kind, teacher.position.kind),
        ("residual.kind", student.residual.kind, teacher.residual.kind),
    ):
        if own != theirs:
            yield (
                f"model.{name}: {own} cannot begin with a teacher's {theirs}; make them alike, or "
                f"use start: random"
            )


def _sizes(student: ModelConfig, teacher: ModelConfig) -> Iterator[str]:
    own, theirs = student.attention, teacher.attention
    rank = student.mlp.rank
    if teacher.mlp.rank is not None and rank != teacher.mlp.rank:
        yield "model.mlp.rank: the teacher's MLP has another bottleneck; use the same rank"
    for name, ours, most in (
        ("vocab_size", student.vocab_size, teacher.vocab_size),
        ("dim", student.dim, teacher.dim),
        ("attention.kv_heads", own.kv_heads, theirs.kv_heads),
        ("attention.head_dim", own.head_dim, theirs.head_dim),
        ("mlp.hidden", student.mlp.width(student.dim), teacher.mlp.width(teacher.dim)),
    ):
        if ours and most and (ours > most or (name == "vocab_size" and ours != most)):
            yield f"model.{name}: {ours} is more than the teacher's {most}; it has no more to give"
    if not (own.heads and own.kv_heads and theirs.heads and theirs.kv_heads):
        return
    if own.heads // own.kv_heads != theirs.heads // theirs.kv_heads:
        yield (
            f"model.attention: {own.heads // own.kv_heads} heads share keys and values, and "
            f"{theirs.heads // theirs.kv_heads} of the teacher's; use the same number"
        )
    if isinstance(student.position, Rope) and own.head_dim and theirs.head_dim:
        turned = own.head_dim == theirs.head_dim or student.position.fraction == 1
        if theirs.head_dim % own.head_dim or not turned:
            yield (
                f"model.attention.head_dim: heads of {own.head_dim} cannot be cut out of rotary "
                f"heads of {theirs.head_dim}; use a divisor"
            )
    learned = student.position.kind == "learned" and student.context and teacher.context
    if learned and (student.context or 0) > (teacher.context or 0):
        yield (
            f"data.context: {student.context} positions are more than the teacher has learned "
            f"({teacher.context})"
        )


def _layers(start: FromTeacher, student: ModelConfig, teacher: ModelConfig) -> Iterator[str]:
    chosen = teacher_layers(start, student, teacher)
    if student.skips and (student.sharing, chosen) != (teacher.sharing, (*range(teacher.layers),)):
        yield (
            "start.layers: the teacher's layers read earlier ones by their place (skips), so a "
            "student needs all of them in their order; or use start: random"
        )
    if len(chosen) != student.layers:
        yield f"start.layers: {len(chosen)} are named, and the student has {student.layers}"
    if outside := [layer for layer in chosen if layer >= teacher.layers]:
        yield (
            f"start.layers: the teacher has no layer {outside[0]}; its {teacher.layers} are "
            f"counted from 0"
        )
