"""First weights of a student from its teacher: the whole teacher, fewer parts, narrower heads, low ranks, refusals."""

import pytest
import torch

from flyweight.compression.structured import shrink
from flyweight.config.pruning import Prune
from flyweight.config.schema import FromTeacher, ModelConfig
from flyweight.model.decoder import Decoder
from flyweight.model.from_teacher import head_places, take_from_teacher
from flyweight.spec.teacher_start import start_faults, teacher_layers

V, T = 23, 12
TEACHER = {"dim": 32, "layers": 4, "attention": {"heads": 4, "kv_heads": 2, "qk_norm": True}}
GPT2 = {
    "dim": 32,
    "layers": 3,
    "attention": {"heads": 4, "bias": True},
    "mlp": {"kind": "gelu", "bias": True},
    "norm": "layernorm",
    "position": "learned",
}
VALUES = {**TEACHER, "attention": {"heads": 4, "kv_heads": 2, "value_residual": True}}
GATES = {**TEACHER, "attention": {"heads": 4, "kv_heads": 2, "gate": True}}
SKIPS = {**TEACHER, "skips": ["unet", "embedding"]}
TOKENS = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(0))


def decoder(raw, seed=0, context=T, **fields):
    return Decoder(ModelConfig.model_validate({**raw, **fields}).resolved(V, context), seed)


def started(student, teacher, layers="even", width="first"):
    start = FromTeacher(layers=layers, width=width)
    assert not list(start_faults(start, student.config, teacher.config))
    chosen = teacher_layers(start, student.config, teacher.config)
    return take_from_teacher(student, teacher, chosen, width)


@pytest.mark.parametrize("raw", [TEACHER, GPT2, VALUES, GATES, SKIPS])
@pytest.mark.parametrize("width", ["first", "norm"])
def test_a_student_of_the_same_shape_is_the_teacher(raw, width):
    teacher, student = decoder(raw, 1).eval(), decoder(raw, 2).eval()
    taken = started(student, teacher, width=width)
    assert not taken.new
    torch.testing.assert_close(student(TOKENS), teacher(TOKENS), rtol=0, atol=0)


def test_layers_are_spread_or_named():
    start = FromTeacher()
    for layers, expected in ((1, (0,)), (2, (0, 3)), (3, (0, 2, 3)), (4, (0, 1, 2, 3))):
        config = decoder(TEACHER, layers=layers).config
        assert teacher_layers(start, config, decoder(TEACHER).config) == expected
    teacher, student = decoder(TEACHER, 1), decoder(TEACHER, 2, layers=2)
    started(student, teacher, layers=(1, 2))
    for own, theirs in ((0, 1), (1, 2)):
        for name, tensor in student.blocks[own].state_dict().items():
            assert torch.equal(tensor, teacher.blocks[theirs].state_dict()[name])


@pytest.mark.parametrize("raw", [TEACHER, GPT2, GATES])
def test_heads_and_channels_are_those_that_structured_pruning_keeps(raw):
    teacher = decoder(raw, 1)
    attention = {**raw["attention"], "heads": 2, "head_dim": 8}
    if "kv_heads" in attention:
        attention["kv_heads"] = 1
    mlp = {"kind": teacher.config.mlp.kind, "hidden": 20, "bias": teacher.config.mlp.bias}
    student = decoder(raw, 2, attention=attention, mlp=mlp)
    started(student, teacher, width="norm")
    pruned = Prune(stage="prune", input="x", method="structured", heads=2, hidden=20)
    expected = shrink(teacher, pruned)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor), name


def test_a_narrower_stream_keeps_what_is_written_most():
    teacher = decoder(TEACHER, 1)
    kept = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20, 21, 30])
    with torch.no_grad():
        for name, tensor in teacher.state_dict().items():
            outside = torch.ones(32, dtype=torch.bool)
            outside[kept] = False
            if name == "embedding.tokens.weight":
                tensor[:, outside] = 0
            elif name.endswith(("attention.out.weight", "mlp.down.weight")):
                tensor[outside] = 0
    attention = {**TEACHER["attention"], "head_dim": 8}
    mlp = {"hidden": teacher.config.mlp.width(32)}
    student = decoder(TEACHER, 2, dim=16, attention=attention, mlp=mlp)
    started(student, teacher, width="norm")
    assert torch.equal(
        student.embedding.tokens.weight,
        teacher.embedding.tokens.weight[:, kept],
    )
    ids = TOKENS
    ours, theirs = student.eval()(ids), teacher.eval()(ids)
    assert torch.corrcoef(torch.stack((ours.flatten(), theirs.flatten())))[0, 1] > 0.99


def test_rotary_heads_keep_pairs_of_the_same_angle():
    assert head_places(8, 4, rotary=True).tolist() == [0, 2, 4, 6]
    assert head_places(8, 4, rotary=False).tolist() == [0, 1, 2, 3]
    teacher = decoder({**TEACHER, "attention": {"heads": 2, "head_dim": 16}}, 1)
    unused = [place for place in range(16) if place not in head_places(16, 8, True).tolist()]
    with torch.no_grad():
        for block in teacher.blocks:
            for matrix in (block.attention.q, block.attention.k, block.attention.v):
                matrix.weight.view(2, 16, 32)[:, unused] = 0
            block.attention.q.weight *= 2**0.5  # scores are divided by the root of 16, not of 8
    student = decoder({**TEACHER, "attention": {"heads": 2, "head_dim": 8}}, 2)
    started(student, teacher)
    with torch.no_grad():
        for block in student.blocks:
            block.attention.q.weight /= 2**0.5
    torch.testing.assert_close(student.eval()(TOKENS), teacher.eval()(TOKENS))


def test_a_low_rank_is_the_best_of_its_rank():
    teacher, student = decoder(TEACHER, 1), decoder(TEACHER, 2, mlp={"rank": 6})
    started(student, teacher)
    mlp = student.blocks[0].mlp
    product = mlp.up.expand.weight @ mlp.up.reduce.weight
    left, sizes, right = torch.linalg.svd(teacher.blocks[0].mlp.up.weight)
    torch.testing.assert_close(product, (left[:, :6] * sizes[:6]) @ right[:6])
    full = decoder(TEACHER, 2, mlp={"rank": 32})
    started(full, teacher)
    torch.testing.assert_close(full.eval()(TOKENS), teacher.eval()(TOKENS), rtol=1e-4, atol=1e-5)


def test_a_head_of_its_own_begins_with_the_tied_table():
    teacher, student = decoder(TEACHER, 1), decoder(TEACHER, 2, embedding={"tied": False})
    assert not started(student, teacher).new
    torch.testing.assert_close(student.eval()(TOKENS), teacher.eval()(TOKENS))


def test_what_the_teacher_lacks_stays_as_it_was():
    shared = {"kind": "cycle", "times": 3, "index": True}
    teacher, student = decoder(TEACHER, 1), decoder(TEACHER, 2, layers=1, sharing=shared)
    assert started(student, teacher, layers=(2,)).new == ("index.weight",)


@pytest.mark.parametrize(
    ("student", "start", "message"),
    [
        ({"dim": 64}, {}, "model.dim: 64 is more than the teacher's 32"),
        ({"mlp": "gelu"}, {}, "model.mlp.kind: gelu cannot begin with a teacher's swiglu"),
        ({"position": "learned"}, {}, "model.position.kind: learned"),
        ({"attention": {"heads": 4, "qk_norm": True}}, {}, "1 heads share keys and values, and 2"),
        ({}, {"layers": (0, 1)}, "start.layers: 2 are named, and the student has 4"),
        ({"layers": 1}, {"layers": (9,)}, "start.layers: the teacher has no layer 9; its 4"),
        (
            {"attention": {"heads": 2, "kv_heads": 1, "head_dim": 6}},
            {},
            "heads of 6 cannot be cut out of rotary heads of 8",
        ),
        ({"skips": "embedding"}, {}, "model.skips: ('embedding',) cannot begin"),
        ({"embedding": {"rank": 4}}, {}, "the student has adapters, a mixture, a factorised"),
    ],
)
def test_what_cannot_begin_so(student, start, message):
    config = ModelConfig.model_validate({**TEACHER, **student}).resolved(V, T)
    faults = list(start_faults(FromTeacher(**start), config, decoder(TEACHER).config))
    assert any(message in fault for fault in faults), faults


def test_skips_and_first_values_need_a_teacher_with_the_same():
    for raw in (SKIPS, VALUES, GATES):
        plain, other = decoder(TEACHER).config, decoder(raw).config
        for student, teacher in ((plain, other), (other, plain)):
            assert any(
                "cannot begin with" in f for f in start_faults(FromTeacher(), student, teacher)
            )
    fewer = decoder(SKIPS, layers=3).config
    faults = list(start_faults(FromTeacher(), fewer, decoder(SKIPS).config))
    assert any("a student needs all of them in their order" in fault for fault in faults)


def test_from_is_the_teacher():
    assert FromTeacher.model_validate({"from": "teacher", "width": "norm"}).width == "norm"
    with pytest.raises(ValueError, match=r"'input' is not known"):
        FromTeacher.model_validate({"from": "input"})
