"""chat, compare and doctor through the command line: typed, piped, and as JSON."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import chat_fixture
import pytest
import yaml
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session, load

SHORT = ("--max-new-tokens", 12, "--temperature", 0, "--threads", 1)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    made = {name: tmp_path_factory.mktemp(name) for name in ("ours", "mistral", "base", "long")}
    chat_fixture.save(made["ours"])
    chat_fixture.save(made["mistral"], "Mistral")
    chat_fixture.save(made["base"], template=None)
    chat_fixture.save(made["long"], context=16_000)
    return made


@pytest.fixture
def pipe(flyweight, monkeypatch):
    def call(text, *words):
        monkeypatch.setattr(
            sys,
            "stdin",
            io.TextIOWrapper(io.BytesIO(text if isinstance(text, bytes) else text.encode())),
        )
        return flyweight(*words)

    return call


@pytest.mark.parametrize("name", ["ours", "mistral"])
def test_piped_lines_are_turns(name, places, pipe):
    words = ("chat", places[name], *SHORT)
    status, out, err = pipe("Hello\n\n/reset\nHello\n/quit\nnever said\n", *words, "--json")
    assert status == 0, err
    told = json.loads(out)
    assert (told["template"], [turn["prompt"] for turn in told["turns"]]) == (
        True,
        ["Hello", "Hello"],
    )
    assert told["turns"][0]["text"] == told["turns"][1]["text"]
    assert set(told["turns"][0]) >= {
        "text",
        "ended",
        "new_tokens",
        "read_tokens",
        "known_tokens",
        "dropped_turns",
    }
    status, out, _ = pipe("Hello\n", *words)
    assert (status, out) == (0, told["turns"][0]["text"] + "\n")


def test_a_base_model_and_the_api_say_the_same(places, pipe, tmp_path):
    status, out, err = pipe("Ann \n\n//x\n", "chat", places["base"], *SHORT, "--json")
    assert status == 0, err
    chat = fw.chat(
        places["base"],
        max_new_tokens=12,
        temperature=0.0,
        session=Session(runs=tmp_path / "runs", threads=1),
    )
    assert [turn["text"] for turn in json.loads(out)["turns"]] == [
        chat.say(line).text for line in ("Ann ", "", "/x")
    ]


def test_quantize_and_export_keep_the_template(places, answer, pipe, tmp_path):
    answer("quantize", places["ours"], "--name", "small", "--threads", 1)
    status, out, err = pipe("Hello\n", "chat", "small:quantize", *SHORT, "--json")
    assert status == 0 and json.loads(out)["template"], err
    answer("export", places["ours"], "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())[
        "eos_token_id"
    ] == [256, 258]
    told = [
        json.loads(pipe("Hello\n", "chat", place, *SHORT, "--json")[1])["turns"]
        for place in (places["ours"], tmp_path / "out")
    ]
    assert told[0] == told[1]


def test_bad_requests_of_a_chat(places, pipe):
    bad = {
        (b"\xff\n", "chat", places["base"]): "line 1: not UTF-8",
        (b"/what\n", "chat", places["base"]): "/what is not a command",
        (b"a\n", "chat", places["base"], "--system", "Be kind."): "no chat template",
        (b"a\n", "chat", places["base"], "--stop", ""): "empty stop",
        (b"y" * 900, "chat", places["ours"]): "say it shorter",
    }
    for (text, *words), message in bad.items():
        status, out, err = pipe(text, *words)
        assert (status, out) == (2, ""), (words, err)
        assert message in err and "Traceback" not in err


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *words, runs):
        self.master, slave = pty.openpty()
        env = {**os.environ, "FLYWEIGHT_RUNS": str(runs), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
        command = [sys.executable, "-m", "flyweight", *map(str, words)]
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # a shell's background jobs ignore it
        )
        os.close(slave)
        self.seen = ""

    def until(self, words):
        self._read(lambda: words in self.seen)
        self.seen = self.seen.partition(words)[2]

    def more(self, characters):
        self._read(lambda: len(self.seen) >= characters)

    def either(self, *words):
        self._read(lambda: any(each in self.seen for each in words))
        first = min((each for each in words if each in self.seen), key=self.seen.index)
        self.seen = self.seen.partition(first)[2]
        return first

    def _read(self, enough):
        end = time.monotonic() + 60
        while not enough():
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")

    def type(self, text):
        os.write(self.master, text.encode())


def test_a_conversation_in_a_terminal(places, tmp_path):
    words = (
        "chat",
        places["long"],
        "--max-new-tokens",
        8000,
        "--temperature",
        1,
        "--threads",
        1,
        "--system",
        "Be brief.",
    )
    terminal = Terminal(*words, runs=tmp_path)
    terminal.until("is a turn.")
    terminal.until("> ")
    terminal.type("/help\n")
    terminal.until("forget everything said")
    terminal.type("/nothing\n")
    terminal.until("/nothing is not a command")
    terminal.until("> ")
    for _ in range(5):  # an answer may end by itself just before the signal comes
        terminal.type("Hello\n")
        terminal.until("Hello\r\n")
        terminal.more(10)  # it answers
        terminal.process.send_signal(signal.SIGINT)
        if terminal.either("(stopped)", "(Ctrl-D leaves)") == "(stopped)":
            break
    else:
        pytest.fail("five answers ended before they could be stopped")
    terminal.until("> ")
    time.sleep(
        0.5
    )  # the line editor loses a signal between its prompt and its first look at the keys
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("(Ctrl-D leaves)")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_file):
    folder = tmp_path_factory.mktemp("compared")
    raw = toy(text_file)
    raw["report"] = {"measure": ["evaluate"], "compare": ["teacher", "int8"]}
    (folder / "toy.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    session = Session(runs=folder / "runs", threads=1)
    fw.run(load(folder / "toy.yaml"), session=session)
    return ("--runs", session.store.root, "--threads", 1)


def test_compare_says_who_is_better_and_by_how_much(finished, answer, flyweight):
    found = answer("compare", "toy:teacher", "toy:student", "toy:alone", *finished)
    assert found["reference"] == found["models"][0]["name"]
    assert found["correction"] == {"method": "holm", "comparisons": 3, "level": 0.05}
    assert len(found["pairs"]) == 3 and len(found["verdicts"]) == 2
    for row in found["models"]:
        assert (
            row["size"]["parameters"] > 0
            and row["size"]["bytes"] > 0
            and row["size"]["training_flops"] > 0
        )
    named = answer(
        "compare", "toy:teacher", "toy:student", "toy:alone", "--against", "toy:student", *finished
    )
    assert (named["reference"], named["correction"]["comparisons"]) == ("toy:student", 2)
    two = answer("compare", "toy:teacher", "toy:student", *finished)
    assert two["correction"]["method"] is None and two["notes"] == []
    status, out, _ = flyweight("compare", "toy:teacher", "toy:student", *finished)
    assert status == 0 and two["verdicts"][0] in " ".join(out.split())
    status, _, err = flyweight(
        "compare", "toy:teacher", "toy:student", "--against", "toy:alone", *finished
    )
    assert status == 2 and "not among the models" in err


def test_two_tokenizers_compare_by_bytes_alone(finished, places, answer, flyweight, tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(600):
        (tmp_path / "texts" / f"{number}.txt").write_text(
            f"Ann sees the number {number}, and Bob takes {number * 7}.\n" * 3
        )
    found = answer(
        "compare", "toy:teacher", places["mistral"], "--data", tmp_path / "texts", *finished
    )
    assert not found["same_tokenizer"] and "only bits per byte" in found["notes"][0]
    assert found["pairs"][0]["nll"] is None
    assert found["models"][-1]["size"]["forward_per_token"] is None


def test_the_doctor(answer, flyweight, tmp_path, monkeypatch):
    found = answer("doctor", "--quick", "--threads", 1)
    assert found["ok"] and found["cores"] > 0
    lines = {line["name"]: line for line in found["lines"]}
    assert lines["cpu fp32"]["values"]["gflops"] > 0
    assert lines["int8 fp32"]["values"]["error"] < 1e-5
    assert (
        lines["attention math"]["verdict"]
        == lines["python-stdlib"]["verdict"]
        == lines["runs root"]["verdict"]
        == "ok"
    )
    assert {line["verdict"] for line in found["lines"]} <= {"ok", "missing", "slow", "broken"}
    assert not (tmp_path / "runs").exists()  # a measurement leaves nothing behind
    (tmp_path / "file").write_text("")
    status, out, err = flyweight(
        "doctor", "--quick", "--threads", 1, "--runs", tmp_path / "file" / "runs"
    )
    assert (
        status == 1
        and "cannot be written" in " ".join(out.split())
        and "Something needed is broken" in out
    ), err
