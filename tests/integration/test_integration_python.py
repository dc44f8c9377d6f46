"""The Python interface: the same as the command line, objects that show themselves, and the examples of its page."""

import importlib
import inspect
import json
import pydoc
import re
import sys
from pathlib import Path

import pytest
import yaml
from toy_recipe import toy

import flyweight as fw
from flyweight import api

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
FIELDS = {"dim": 16, "layers": 1, "attention": {"heads": 2}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_file):
    """A toy run of two models, made from a mapping."""
    folder = tmp_path_factory.mktemp("python")
    raw = toy(text_file)
    raw["stages"] = {name: raw["stages"][name] for name in ("teacher", "student")}
    raw["report"] = {"compare": ["teacher", "student"], "measure": ["evaluate", "audit"]}
    (folder / "toy.yaml").write_text(yaml.safe_dump(raw))
    session = fw.Session(runs=folder / "runs", threads=1, quiet=True)
    return raw, session, fw.run(raw, session=session)


@pytest.fixture
def cli(finished, answer, monkeypatch):
    """Run a verb with --json over the runs root of `finished`."""

    def call(*words):
        monkeypatch.setenv("FLYWEIGHT_RUNS", str(finished[1].runs))
        return answer(*words, "--threads", 1)

    return call


def test_every_verb_has_its_function_and_a_documented_signature():
    from flyweight.cli.app import app

    verbs = {info.name or info.callback.__name__ for info in app.registered_commands}
    others = {
        "quickstart": "run",
        "eval": "evaluate",
        "import": "import_",
        "ls": "artifacts",
        "schema": None,
    }
    for verb in verbs:
        name = others.get(verb, verb)
        if name is None:
            continue
        function = getattr(fw, name)
        assert name in fw.__all__ and callable(function)
        assert "session" in inspect.signature(function).parameters
        assert len(inspect.getdoc(function)) > 60


def test_what_an_option_is_called_its_parameter_is_called():
    from flyweight.cli.app import app

    shared = {
        "runs",
        "data_dir",
        "device",
        "threads",
        "seed",
        "trust_remote_code",
        "as_json",
        "overrides",
    }
    renamed = {
        "size": "bytes",
        "target": "target",
        "names": "runs",
        "models": "compared",
        "study": "target",
        "words": "data",
    }
    for info in app.registered_commands:
        verb = info.name or info.callback.__name__
        name = {"quickstart": "run", "eval": "evaluate", "import": "import_"}.get(verb, verb)
        if name in ("schema", "ls", "gc"):
            continue
        own = set(inspect.signature(info.callback).parameters) - shared
        known = set(inspect.signature(getattr(api, name)).parameters)
        first = next(iter(known & {"teacher", "reference"}), None)
        missing = (
            {renamed.get(each, each) for each in own}
            - known
            - {"tasks", "task_path", "few_shot", "limit", "fit"}  # in Python: plan(...).words()
        )
        assert missing <= ({"model"} if first else set()), (verb, missing)


@pytest.mark.parametrize(
    "name", ["plan", "evaluate", "study", "export", "train", "report", "compare", "distill"]
)
def test_help_helps(name):
    for module in (
        "formats.hf",
        "planning.planner",
        "reports.pages.run",
        "studies.run",
        "training.trainer",
    ):
        importlib.import_module(f"flyweight.{module}")
    shown = pydoc.render_doc(getattr(fw, name), renderer=pydoc.plaintext)
    assert f"{name}(" in shown and "session: Session = Session()" in shown
    assert inspect.getdoc(getattr(api, name)).splitlines()[0] in shown
    assert (
        inspect.signature(getattr(fw, name)).parameters.keys()
        == inspect.signature(getattr(api, name)).parameters.keys()
    )


def test_the_function_and_the_verb_do_the_same(finished, cli):
    raw, session, run = finished
    path = str(Path(session.runs).parent / "toy.yaml")
    assert cli("run", path)["request"] == run.summary.request
    words = (
        "data.corpus=" + raw["data"]["corpus"],
        "model.dim=16",
        "model.layers=1",
        "model.attention.heads=2",
        "train.steps=4",
    )
    by_verb = cli("distill", "toy:teacher", *words)
    given = {
        "data": raw["data"]["corpus"],
        "model": FIELDS,
        "train": {"steps": 4},
        "session": session,
    }
    for teacher in ("toy:teacher", run["teacher"].path, run["teacher"], run["teacher"].id):
        by_function = fw.distill(teacher, **given, name=by_verb["name"])
        assert by_function["distill"].id == by_verb["stages"][0]["id"]
    by_verb = cli("quantize", "toy:student", "--kind", "nf4")
    by_function = fw.quantize("toy:student", kind="nf4", session=session)
    assert by_function["quantize"].id == by_verb["stages"][0]["id"]
    assert by_function.summary.name == by_verb["name"] == "quantize-nf4-toy-student"
    compared = fw.compare("toy:teacher", "toy:student", session=session)
    assert json.loads(json.dumps(compared.json())) == cli("compare", "toy:teacher", "toy:student")
    assert (
        fw.plan(raw, time="1h", session=session).json()["total"]
        == cli("plan", path, "--time", "1h")["total"]
    )
    assert fw.report(run, session=session) == run.report
    assert fw.report("toy", session=session) == run.report


def test_a_comparison_takes_artifacts_paths_and_names_and_nothing_else(finished):
    _, session, run = finished
    names = [run["teacher"], run["student"].path, "toy:student"]
    assert len(list(fw.compare(*names[:2], session=session))) == 2
    with pytest.raises(fw.RequestError, match="a model is a name, a folder or an artifact"):
        fw.compare(names, session=session)
    with pytest.raises(fw.RequestError, match="a model is a name"):
        fw.evaluate(None, session=session)
    with pytest.raises(fw.RequestError, match="a recipe is a name, a YAML file or a mapping"):
        fw.load(["toy"])
    with pytest.raises(fw.RequestError, match="checked already"):
        fw.run(fw.load(finished[0]), "seed=1", session=session)
    with pytest.raises(fw.RequestError, match=r"session: expected fw\.Session"):
        fw.evaluate("toy:student", session="runs")


def test_what_comes_back_is_short_in_a_list_and_a_table_in_a_notebook(finished):
    raw, session, run = finished
    plan, compared = (
        fw.plan(raw, session=session),
        fw.compare("toy:teacher", "toy:student", session=session),
    )
    bits = fw.evaluate("toy:student", session=session).bits_per_byte
    for value in (
        run,
        plan,
        compared,
        bits,
        run["student"],
        fw.load(raw),
        session,
        fw.plan("gpt2", session=session),
    ):
        assert len(repr(value)) < 200 and "\n" not in repr(value)
    assert re.fullmatch(
        r"<Metric \d\.\d+ bits/byte, 95 % interval \S+ \.\.\. \S+, n = [\d,]+>", repr(bits)
    )
    assert f"{fw.load(raw)}" == "<Recipe toy: teacher, student>"
    for value, words in (
        (run, "<th>bits/byte</th>"),
        (plan, "<th>parameters</th>"),
        (compared, "<th>verdict</th>"),
    ):
        page = value._repr_html_()
        assert (
            words in page
            and page.count("teacher") >= 1
            and page.count("<table>") == page.count("</table>") >= 1
        )
    assert "teacher" in str(plan) and "student" in str(compared)


def test_data_frames_have_the_numbers_of_the_summary(finished, monkeypatch):
    pandas = pytest.importorskip("pandas")
    _, session, run = finished
    frame = run.to_pandas()
    assert list(frame.index) == ["teacher", "student"]
    metric = run.summary.model("student").evaluate.bits_per_byte
    assert frame.loc["student", ["bits_per_byte", "bits_per_byte_low", "bits_per_byte_high"]].tolist() == [
        metric.value, metric.low, metric.high
    ]  # fmt: skip
    assert pandas.isna(frame.loc["student", "decode_tokens_per_s"])  # it was not measured
    compared = fw.compare("toy:teacher", "toy:student", session=session)
    assert list(compared.to_pandas().index) == [row.name for row in compared]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(fw.RequestError, match="pip install pandas"):
        run.to_pandas()


def test_progress_is_shown_unless_the_session_is_quiet(finished, capsys):
    raw, session, _ = finished
    fw.run(raw, session=fw.Session(runs=session.runs, threads=1))
    out, err = capsys.readouterr()
    assert (out, "teacher: pretrain" in err) == ("", True)
    fw.run(raw, session=session)
    assert capsys.readouterr() == ("", "")
    heard = []
    fw.run(
        raw,
        session=fw.Session(
            runs=session.runs, threads=1, watch=lambda kind, fields: heard.append(kind)
        ),
    )
    assert "made" in heard and capsys.readouterr() == ("", "")


def test_the_examples_of_the_page_run(text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLYWEIGHT_RUNS", str(tmp_path / "runs"))
    Path("novel.txt").write_bytes(text_file.read_bytes())
    monkeypatch.setattr("flyweight.api.session.DEFAULT", fw.Session(threads=1))
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(examples) >= 5
    names = {}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    for name in (
        "train",
        "plan",
        "run",
        "evaluate",
        "compare",
        "distill",
        "quantize",
        "export",
        "generate",
        "report",
    ):
        assert any(f"fw.{name}(" in example for example in examples), name
