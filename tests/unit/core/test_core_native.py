import os
import shutil
from pathlib import Path

import pytest

from flyweight.core import native
from flyweight.core.native import NativeError

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.load.cache_clear()
    file = tmp_path / "answer.c"
    file.write_text("int answer(void) { return 42; }\n")
    return file


@needs_compiler
def test_a_file_is_compiled_once_and_kept_for_its_user_alone(source: Path) -> None:
    first = native.load(source)
    assert first.library.answer() == 42
    assert first.seconds > 0
    assert first.path.parent.stat().st_mode & 0o777 == 0o700
    native.load.cache_clear()
    again = native.load(source)
    assert (again.path, again.seconds) == (first.path, 0.0)
    assert os.listdir(first.path.parent) == [first.path.name]


@needs_compiler
def test_another_text_is_another_library(source: Path) -> None:
    first = native.load(source).path
    native.load.cache_clear()
    source.write_text("int answer(void) { return 43; }\n")
    second = native.load(source)
    assert second.path != first
    assert second.library.answer() == 43


@needs_compiler
def test_a_folder_that_others_can_write_to_is_not_run_from(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "flyweight"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(NativeError, match="can be written by others"):
        native.load(source)


@needs_compiler
def test_what_the_compiler_says_is_told(source: Path) -> None:
    source.write_text("int answer(void) { return forty_two; }\n")
    with pytest.raises(NativeError, match="forty_two"):
        native.load(source)


def test_without_a_compiler_it_says_so(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(NativeError, match="no C compiler was found"):
        native.load(source)
    monkeypatch.setenv("CC", "no-such-compiler")
    native.load.cache_clear()
    with pytest.raises(NativeError, match="no-such-compiler that CC names is not there"):
        native.load(source)
