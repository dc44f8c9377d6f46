import time

import pytest

from flyweight.core.helper import Helper, TooMuchError
from flyweight.decode import chat_template_worker

WORKER = "flyweight.decode.chat_template_worker"


def question(source, **variables):
    return {"source": source, "variables": variables, "longest": 10_000}


def test_a_helper_is_kept_and_one_that_is_too_slow_is_replaced():
    helper = Helper(WORKER, 256)
    assert helper.ask(question("{{ x }}", x="ü\ud800"), 60) == {"text": "ü\ud800"}
    first = helper._child
    began = time.monotonic()
    with pytest.raises(TooMuchError, match=r"more than 0\.5 s"):
        helper.ask(
            question(
                "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
            ),
            0.5,
        )
    assert time.monotonic() - began < 30
    assert first.poll() is not None
    with pytest.raises(TooMuchError, match="more than 256 MB"):
        helper.ask(question("{{ ('x' * 10**9)|length }}"), 60)
    assert helper.ask(question("again"), 60) == {"text": "again"}
    last = helper._child
    del helper
    assert last.poll() is not None


def test_the_length_of_a_text_is_limited():
    assert chat_template_worker.render(question("{{ 'x' * 9999 }}")) == {"text": "x" * 9999}
    assert chat_template_worker.render(question("{{ 'x' * 10001 }}")) == {"long": True}
