"""Ctrl-C: a message, then the end, also where it is pressed twice."""

import signal
import threading

import pytest

from flyweight.cli import app as cli


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(130)])
def test_pressed_again_it_ends_the_process_at_once(monkeypatch, capsys, stop):
    def stopped():
        raise stop

    monkeypatch.setattr(cli, "app", stopped)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"flyweight: {cli.INTERRUPTION}\n"


def test_another_thread_than_the_main_one_may_be_told_as_well(monkeypatch, capsys):
    ended = []

    def run():
        with pytest.raises(SystemExit) as stop:
            cli._interrupted()
        ended.append(stop.value.code)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended == [1] and signal.getsignal(signal.SIGINT) is before
