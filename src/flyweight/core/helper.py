"""A child process, limited in time and memory, for work that foreign data could make endless.

The parent asks and the child answers, a JSON object at a time, each after its length in eight
bytes. The child is kept for the next question. A child that is too slow is ended, and the next
question starts another.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any

from flyweight.core import process

START = 120.0
"""Seconds in which a child has to start: imports take long on a busy machine."""


class TooMuchError(Exception):
    """An answer took more time or memory than allowed; the message says which."""


class Helper:
    """Answers the questions of one kind in a process of its own, where `serve` runs."""

    def __init__(self, module: str, megabytes: int) -> None:
        self.module = module
        self.megabytes = megabytes
        self._child: process.Process | None = None

    def ask(self, question: Mapping[str, object], seconds: float) -> dict[str, Any]:
        """Return the answer to a question.

        Raises TooMuchError where it takes more than `seconds` or the child's memory.
        """
        child = self._ready()
        answer = self._answer(child, question, seconds)
        if answer is None or answer.get("memory"):
            raise TooMuchError(f"it needs more than {self.megabytes} MB of memory, or crashed")
        return answer

    def _ready(self) -> process.Process:
        if self._child is None or self._child.poll() is not None:
            child = process.start(self.module)
            weakref.finalize(self, _end, child)
            self._child = child
            if self._answer(child, {"megabytes": self.megabytes}, START) is None:
                raise TooMuchError("its process did not start")
        return self._child

    def _answer(
        self, child: process.Process, question: Mapping[str, object], seconds: float
    ) -> dict[str, object] | None:
        """Return the child's answer, or None where the child ended without one."""
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            assert child.stdin is not None and child.stdout is not None
            _write(child.stdin, question)
            return _read(child.stdout)
        except (OSError, EOFError):
            self._child = None
            _end(child)
            if late.is_set():
                raise TooMuchError(f"it takes more than {seconds:g} s") from None
            return None
        except BaseException:  # an interrupt: its answer must not be read as the next question's
            self._child = None
            _end(child)
            raise
        finally:
            timer.cancel()


def _end(child: process.Process) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what could not be written before is lost
                pipe.close()


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer questions from standard input on standard output until the input ends.

    This is the whole work of a child.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its child itself
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may come between the answers
    limit(_read(questions)["megabytes"] * 2**20)
    _write(answers, {})
    while True:
        try:
            question = _read(questions)
        except EOFError:
            return
        try:
            reply = answer(question)
        except MemoryError:
            reply = {"memory": True}
        _write(answers, reply)


def limit(more: int) -> None:
    """Let this process take `more` bytes of memory beside what it has, and dump no core.

    Does nothing where the system knows no such limit.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            resident = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return  # other systems ignore this limit, or it is too small for a process's start
    resource.setrlimit(resource.RLIMIT_AS, (resident + more, resident + more))


def _write(stream: IO[bytes], value: Mapping[str, object]) -> None:
    content = json.dumps(value).encode()
    stream.write(len(content).to_bytes(8, "little") + content)
    stream.flush()


def _read(stream: IO[bytes]) -> dict[str, Any]:
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    size = int.from_bytes(head, "little")
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return json.loads(content)
