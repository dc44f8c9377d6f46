"""Model cards of hand-made artifacts: what they say, what they must not say, and that they are the same whenever made."""

import json
from dataclasses import replace

import pytest
import yaml
from markdown_it import MarkdownIt

from flyweight.config import load
from flyweight.core.files import write_json, write_sealed
from flyweight.errors import FlyweightError
from flyweight.records.floors import Floor, NgramFloors
from flyweight.records.metric import Metric
from flyweight.records.scores import TaskScores
from flyweight.reports.cards import card, metrics
from flyweight.store import measurements
from flyweight.store.artifact import Artifact, Identity, Store

TRAIN = {
    "steps": 30, "tokens": None, "flops": None, "time": 60.0, "batch": 4, "optimizer": {"kind": "adamw", "lr": 3e-3},
    "validation_tokens": 65536, "keep": "best",
}  # fmt: skip
FACTS = {
    "steps": 30, "tokens": 3840, "flops": 12_000_000, "total_flops": 15_000_000, "seconds": 1.25, "total_seconds": 2.5,
    "best_nll": 3.21, "best_step": 28, "stopped_by": "steps", "took": 1.3,
}  # fmt: skip
CONFIG = load.resolved(
    load.model_config({"dim": 16, "layers": 1, "attention": {"heads": 2}}, "test"), "test", 256, 32
)
EVIL = "a|b`<script>alert(1)</script>\n# head"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def model(
    store,
    stage="pretrain",
    seed=0,
    facts=FACTS,
    train=TRAIN,
    command="flyweight run x",
    weights=b"0123",
    **parents,
):
    def work(draft):
        write_json(draft.path / "model" / "config.json", CONFIG.model_dump(mode="json"))
        (draft.path / "model" / "model.safetensors").write_bytes(weights)
        card.write(draft, facts)
        return facts

    config = {} if train is None else {"train": train}
    if stage == "finetune":
        config |= {"method": {"kind": "lora"}, "data": {"task": "squad"}}
    identity = Identity(stage=stage, version=1, config=config, seed=seed, parents=parents)
    return store.obtain(identity, work, command)[0]


def number(value, low, high, unit="x", better="lower", n=10):
    return {"value": value, "low": low, "high": high, "unit": unit, "better": better, "n": n}


def measure(store, of, kind, metrics, command="flyweight eval x", **config):
    def work(draft):
        write_json(draft.path / "metrics.json", metrics)
        return {"took": 0.1, "corpus_fingerprint": "abc"}

    parents = {"input": of.id, "corpus": "corpus-00000001"}
    if kind == "floors":
        parents.pop("input")
    identity = Identity(
        stage=kind, version=1, config=config, parents=parents, machine="A chip", libraries={}
    )
    return store.obtain(identity, work, command)[0]


def evaluation(store, of, value=2.5, split="test"):
    keys = ("nll", "perplexity", "word_perplexity", "bits_per_byte")
    metrics = {key: number(value, value - 0.25, value + 0.25) for key in keys}
    interval = {"level": 0.95, "over": "block", "units": 44}
    return measure(
        store,
        of,
        "evaluate",
        {**metrics, "split": split, "window": 32, "stride": 32, "interval": interval},
        split=split,
    )


def speed():
    keys = (
        "forward_ms",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "peak_bytes",
        "weight_bytes",
    )
    return {"metrics": {key: number(7.0, 6.0, 8.0, "ms") for key in keys}}


def test_the_card_is_part_of_the_artifact_and_has_no_times(store):
    artifact = model(store)
    assert "README.md" in artifact.manifest["files"]
    said = (artifact.path / "README.md").read_text()
    for expected in (
        artifact.id,
        "30",
        "3,840",
        "12 M",
        "15 M",
        "3.210 nats/token at step 28",
        "| time | 1 min |",
        "manifest.json",
    ):
        assert expected in said, expected
    assert (
        "1.25" not in said and "2.5" not in said and artifact.manifest["created"][:10] not in said
    )
    later = model(
        Store(store.root / "elsewhere"),
        facts={**FACTS, "seconds": 99.0, "total_seconds": 99.0, "took": 99.0},
        command="y",
    )
    assert (later.path / "README.md").read_bytes() == (artifact.path / "README.md").read_bytes()
    assert later.id == artifact.id
    (artifact.path / "README.md").write_text("changed")
    with pytest.raises(Exception, match=r"README\.md"):
        Artifact.open(artifact.path)


def test_what_holds_no_model_has_no_card(store):
    identity = Identity(stage="toy", version=1, config={})
    artifact, _ = store.obtain(identity, lambda draft: card.write(draft, {}) or {})
    assert not (artifact.path / "README.md").exists()


def test_the_full_card_has_every_measurement_with_its_interval_and_commands(store):
    artifact = model(store)
    evaluation(store, artifact)
    measure(store, artifact, "bench", speed(), command="flyweight bench x", batch=1)
    checks = [
        {"name": "causality", "verdict": "pass", "measured": 0.0, "bound": 0.0, "why": ""},
        {"name": "padding", "verdict": "fail", "measured": 1.0, "bound": 0.0, "why": EVIL},
    ]
    measure(store, artifact, "audit", {"passed": False, "checks": checks})
    measure(
        store,
        artifact,
        "sample",
        {"samples": [{"prompt": EVIL, "text": "```\n# out"}]},
        prompts=[EVIL],
    )
    costs = {"nll": 1.0, "perplexity": 2.7, "seconds": 0.1, "stored": 9}
    floors = NgramFloors(
        unigram=Floor(bits_per_byte=4.0, **costs),
        bigram=Floor(bits_per_byte=3.0, **costs),
        kn5=Floor(bits_per_byte=2.0, **costs),
        split="test",
        tokens=10,
        train_tokens=20,
        train_tokens_available=20,
        vocab_size=8,
    )
    measure(store, artifact, "floors", floors.to_metrics(), split="test")
    said = card.full(artifact, store)
    for expected in (
        "2.250 to 2.750", "6 to 8", "44 blocks", "A chip", "1 of 2 checks "
                                                           "passed", "`padding`", "flyweight run x",
        "flyweight eval x", "flyweight bench x", "5-gram (Kneser-Ney) reaches 2.000 bits/byte "
                                                 "against its 2.500",
        artifact.manifest["created"],
    ):  # fmt: skip
        assert expected in said, expected
    tokens = MarkdownIt("commonmark").enable("table").parse(said)
    heads = [
        tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"
    ]
    assert heads == [
        artifact.id, "Model", "Data", "Budget and what was "
                                      "spent", "Metrics", "How it was made and measured", "Limits"
    ]  # fmt: skip
    assert not any(token.type == "html_block" for token in tokens)
    assert "Not measured: speed" not in said and "Not measured: the audit" not in said


def test_what_is_missing_is_said(store):
    artifact = model(store)
    said = card.full(artifact, store)
    for expected in ("likelihood", "speed and memory", "the audit"):
        assert f"Not measured: {expected}" in said
    assert "nothing was measured" in said
    evaluation(store, artifact, split="validation")
    said = card.full(artifact, store)
    assert "Not measured: likelihood on a test split" in said and "n-gram models" in said


def test_a_damaged_measurement_is_named_and_left_out(store):
    artifact = model(store)
    found = evaluation(store, artifact)
    (found.path / "metrics.json").write_text("{}")
    said = card.full(artifact, store)
    assert f"`{found.id} is damaged`" in said and "2.75" not in said
    bench = measure(store, artifact, "bench", speed(), batch=1)
    (bench.path / "manifest.json").write_text("{")
    assert f"`{bench.path.name} is damaged`" in card.full(artifact, store)


@pytest.mark.parametrize(
    "metrics", [{}, {"metrics": 3}, {"metrics": {}}, {"metrics": {"forward_ms": [1]}}]
)
def test_numbers_that_are_none_are_named(store, metrics):
    artifact = model(store)
    bench = measure(store, artifact, "bench", metrics, batch=1)
    with pytest.raises(FlyweightError, match=bench.id):
        card.full(artifact, store)


def test_the_newest_measurement_counts_and_other_models_do_not(store):
    mine, other = model(store), model(store, seed=1, weights=b"4567")
    evaluation(store, other, 9.0)
    assert measurements.of(mine, store.entries()).evaluations == ()
    old = evaluation(store, mine, 2.5)
    newer = replace_identity(store, old, 1.5)
    (only,) = measurements.of(mine, store.entries()).evaluations
    assert only.id == newer.id
    evaluation(store, mine, 3.5, split="validation")
    assert len(measurements.of(mine, store.entries()).evaluations) == 2


def replace_identity(store, old, value):
    """Measure the same again on another machine, a day later."""
    identity = replace(Identity(**old.identity), machine="Another chip")

    def work(draft):
        metrics = json.loads((old.path / "metrics.json").read_text())
        write_json(draft.path / "metrics.json", {**metrics, "nll": number(value, value, value)})
        return dict(old.facts)

    artifact, _ = store.obtain(identity, work)
    manifest = {**artifact.manifest, "created": "2099-01-01T00:00:00Z"}
    manifest.pop("digest")
    write_sealed(artifact.path / "manifest.json", manifest)
    return artifact


def test_a_chosen_model_has_the_measurements_and_the_training_of_the_one_it_is(store):
    chosen = model(store)
    other = model(
        store, seed=1, facts={**FACTS, "seconds": 5.0}, train={**TRAIN, "batch": 8}, weights=b"4567"
    )
    evaluation(store, chosen)
    parents = {"among.0": other.id, "among.1": chosen.id}
    best = model(store, "select", facts={**FACTS, "chosen": "alone"}, train=None, **parents)
    said = card.full(best, store)
    assert (
        "2.250 to 2.750" in said
        and "30 |" in said
        and "4 windows a step" in said
        and "the best validation likelihood: `alone`" in said
    )


@pytest.mark.parametrize(
    ("stage", "facts", "said"),
    [
        ("import", {"source": "hf:a/b", "model_type": "llama"}, "imported from `hf:a/b`"),
        ("init", {}, "with random weights, not trained"),
        ("pretrain", FACTS, "trained from random weights"),
    ],
)
def test_every_way_to_come_by_a_model_has_its_words(store, stage, facts, said):
    artifact = model(
        store, stage, facts={**facts, "took": 1.0}, train=TRAIN if stage == "pretrain" else None
    )
    assert said in (artifact.path / "README.md").read_text()
    assert said in card.full(artifact, store)


def test_an_export_has_front_matter_that_the_hub_reads(store):
    source = model(
        store,
        "import",
        facts={"source": "hf:a/b@main", "model_type": "llama", "took": 1.0},
        train=None,
    )
    artifact = model(store, seed=3, input=source.id, facts={**FACTS, "corpus": "corpus-00000001"})
    said = card.exported(artifact, store, "my | model", "transformers", "llama", ["a note"])
    _, matter, body = said.split("---\n", 2)
    assert yaml.safe_load(matter) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["flyweight", "pretrain"],
        "base_model": ["a/b"],
    }  # fmt: skip
    assert "license" in matter and "- a note" in body and "written as" in body
    hub = pytest.importorskip("huggingface_hub")
    assert hub.ModelCard(said).data.library_name == "transformers"
    own = card.exported(artifact, store, "x", "transformers", "flyweight", [])
    assert "library_name: flyweight" in own
    assert "- gguf" in card.exported(artifact, store, "x", "gguf", "GGUF, llama, f16", [])


def test_what_a_stage_of_another_package_measured_is_printed(store):
    measured = store.obtain(
        Identity(stage="probe", version=1, config={}, seed=0, parents={}),
        lambda draft: (
            write_json(
                draft.path / "metrics.json",
                {"reach": number(2.5, 2.25, 2.75, "steps"), "rounds": 12, "note": "x"},
            )
            or {}
        ),
        "flyweight run x",
    )[0]
    lines = metrics.section(measurements.Measurements(others=(measured,)), {})
    shown = " ".join("\n".join(lines).split())
    assert "Measured by the stage `probe`" in shown
    assert "| reach | 2.5 | 2.25 to 2.75 | steps | 10 |" in shown
    assert "| rounds | 12 |" in shown and "note" not in shown


def score(store, of, value, standing="above"):
    """Measure a model on a task; every model answers the same rows."""
    f1 = Metric(value, "%", "higher", 9, value - 1, value + 1)
    floor = Metric(9.7, "%", "higher", 9, 9.4, 10.1)
    record = TaskScores(
        task="squad",
        kind="squad",
        split="test",
        origin="here",
        fingerprint="abc",
        rows=9,
        rows_available=9,
        contexts=5,
        dropped=0,
        cut_prompts=0,
        unscored=0,
        window=32,
        new_tokens=8,
        metrics={"f1": f1},
        floor="first_sentence",
        floor_about="the paragraph's first sentence",
        floor_metrics={"f1": floor},
        above_floor={},
        decides="f1",
        p=0.01,
        standing=standing,
        shown=("f1",),
    )
    return measure(store, of, "score", record.to_metrics(), split="test")


def test_scores_on_tasks_stand_beside_the_floor_and_the_bases(store):
    base = model(store, weights=b"base")
    tuned = model(store, stage="finetune", weights=b"tuned", input=base.id)
    score(store, tuned, 31.2)
    alone = card.full(tuned, store)
    assert "Answers to `squad`, test split, 9 rows" in alone and "| before |" not in alone
    assert "It is above its floor in F1." in alone
    score(store, base, 12.5)
    said = card.full(tuned, store)
    assert "| metric | this model | before | floor |" in said
    assert "| f1 | 31.20 (30.20 to 32.20) | 12.50 (11.50 to 13.50) | 9.70 (9.40 to 10.10) |" in said
    assert "Not measured: other tasks" in said
    assert "| before |" not in card.full(base, store), "nothing came before the base"
