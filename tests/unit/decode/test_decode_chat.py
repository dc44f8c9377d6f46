import chat_fixture
import pytest
import torch

import flyweight as fw
from flyweight.api import Session
from flyweight.checkpoints import load_any
from flyweight.errors import RequestError

SHORT = {"max_new_tokens": 12, "temperature": 0.0}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders of models: with a template as our own decoder and behind the adapter (full and windowed), and without one."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("ours", "mistral", "base", "strict")}
    chat_fixture.save(made["ours"])
    chat_fixture.save(made["mistral"], "Mistral")
    chat_fixture.save(made["base"], template=None, context=64)
    chat_fixture.save(made["strict"], template=chat_fixture.STRICT)
    return made


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return Session(runs=tmp_path_factory.mktemp("runs"), threads=1)


def test_a_template_opens_every_turn_and_what_was_read_is_not_read_again(places, session):
    chat = fw.chat(places["ours"], "Be brief.", **SHORT, session=session)
    first = chat.say("Hello")
    seen = (chat._messages, chat._seen)
    second = chat.say("And then?")
    assert first.known_tokens == 0
    # The last token of the answer was said, never read; what follows is new, special tokens one
    # each.
    opened = len("E\nSuser\nAnd then?E\nSassistant\n")
    assert (second.read_tokens, second.known_tokens) == (
        1 + opened,
        first.read_tokens + first.new_tokens - 1,
    )
    fresh = fw.chat(places["ours"], "Be brief.", **SHORT, session=session)
    fresh._messages, fresh._seen = seen
    assert fresh.say("And then?").text == second.text
    chat.reset()
    assert chat.say("Hello").text == first.text
    assert len(chat.json()["turns"]) == 3


@pytest.mark.parametrize("name", ["ours", "mistral"])
def test_the_first_answer_is_the_models_own(name, places, session):
    chat = fw.chat(places[name], **SHORT, session=session)
    assert (name == "mistral") == (type(chat.running.model) is load_any.Foreign)
    words = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    ids = chat.tokenizer.encode_marked(words)
    from flyweight.decode.generate import generate

    (expected,) = generate(chat.running.model, [ids], max_new_tokens=12, stop_tokens=chat.ends)
    assert chat.say("Hello").text == chat.tokenizer.decode(expected, skip_special=True)
    fresh = fw.chat(places[name], **SHORT, session=session)
    fresh._messages = chat._messages[
        :2
    ]  # without the tokens: what was said is encoded anew, and the cache cut back
    chat._seen = ("", [])
    second = chat.say("Again")
    assert (
        second.text == fresh.say("Again").text
    )  # a window of the past cannot be cut back: it is read anew


def test_a_base_model_goes_on_with_one_running_text(places, session):
    chat = fw.chat(places["base"], **SHORT, session=session)
    heard = []
    first = chat.say("Ann ", heard.append)
    assert (
        "".join(heard)
        == first.text
        == fw.generate(places["base"], "Ann ", **SHORT, session=session)
    )
    second = chat.say("")
    assert (
        second.known_tokens == len(chat.tokenizer.encode("Ann ")) + first.new_tokens - 1
        and second.read_tokens == 1
    )
    third = chat.say("Bob")
    assert third.known_tokens >= second.known_tokens + second.new_tokens
    assert third.dropped_tokens == 0
    fourth = chat.say("and more words than there is room for")
    assert fourth.dropped_tokens > 0
    assert fourth.read_tokens == 32


def test_a_full_context_drops_the_oldest_turns(places, session):
    chat = fw.chat(places["ours"], "Be brief.", **SHORT, session=session)
    dropped = 0
    for _ in range(8):
        turn = chat.say("x" * 80)
        dropped += turn.dropped_turns
    assert dropped > 0
    assert chat.template.render([*chat._opening(), *chat._messages]).startswith(
        "<|im_start|>system\nBe brief."
    )
    before = chat._messages
    with pytest.raises(RequestError, match="say it shorter"):
        chat.say("y" * 600)
    assert chat._messages == before


def test_stop_strings_and_what_is_said_next(places, session):
    chat = fw.chat(places["base"], **SHORT, session=session)
    whole = chat.say("Ann ").text
    stop = whole[3:5]
    chat = fw.chat(places["base"], **SHORT, stop=[stop], session=session)
    turn = chat.say("Ann ")
    assert (turn.text, turn.ended) == (whole[: whole.index(stop)], "stop")
    assert chat._ids == chat.tokenizer.encode("Ann " + turn.text)


def test_an_interrupt_keeps_what_was_said(places, session):
    chat = fw.chat(places["base"], **SHORT, session=session)
    whole = chat.say("Ann ").text
    chat = fw.chat(places["base"], **SHORT, session=session)
    pieces, interrupted = [], []

    def once(piece):
        pieces.append(piece)
        if len("".join(pieces)) >= 4 and not interrupted:
            interrupted.append(1)
            raise KeyboardInterrupt

    turn = chat.say("Ann ", once)
    assert turn.ended == "interrupted"
    assert whole.startswith(turn.text) and 0 < len(turn.text) < len(whole)
    rest = chat.say("")
    assert (turn.text + rest.text).startswith(whole)


def test_what_makes_no_sense_is_refused(places, session):
    with pytest.raises(RequestError, match="no chat template"):
        fw.chat(places["base"], "Be brief.", session=session)
    with pytest.raises(RequestError, match="no system here"):
        fw.chat(places["strict"], "Be brief.", session=session)
    with pytest.raises(RequestError, match="temperature"):
        fw.chat(places["base"], temperature=-1, session=session)
    with pytest.raises(RequestError, match="max_new_tokens"):
        fw.chat(places["base"], max_new_tokens=0, session=session)
    with pytest.raises(RequestError, match="empty stop"):
        fw.chat(places["base"], stop=[""], session=session).say("a")


def test_a_foreign_cache_that_was_cut_back_is_like_one_that_never_had_more(places):
    model = load_any.load(
        places["mistral"]
    )  # its attention sees 24 tokens, and both cuts are beyond that
    draws = torch.Generator().manual_seed(0)
    first, second = (torch.randint(256, (1, 50), generator=draws) for _ in range(2))
    cache = model.new_cache(1, 64)
    with torch.no_grad():
        model(first, cache)
        assert cache.truncate(30, first[:, :30])
        found = model(second[:, :10], cache)
        expected = model(torch.cat((first[:, :30], second[:, :10]), 1))[:, 30:]
    assert cache.length == 40
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
