from __future__ import annotations

import os
from pathlib import Path

import pytest

from flyweight.core.files import (
    appearing,
    copy_file,
    copy_folder,
    new_file,
    own_folder,
    read_bytes,
    read_json,
    read_sealed,
    reason,
    remove,
    sha256,
    user_path,
    write_text,
)
from flyweight.errors import FlyweightError, RequestError


def test_the_system_refuses_in_words(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "gone").read_text()
    assert reason(caught.value) == "No such file or directory"
    assert reason(ValueError("not a number")) == "not a number"
    assert reason(EOFError()) == "EOFError"


def test_whole_files_replace_a_link_and_not_what_it_leads_to(tmp_path: Path, elsewhere: Path):
    (tmp_path / "report.html").symlink_to(elsewhere / "report.html")
    (tmp_path / f".report.html.{os.getpid()}.partial").symlink_to(elsewhere / "file")
    write_text(tmp_path / "report.html", "new")
    assert (tmp_path / "report.html").read_text() == "new" and not (
        tmp_path / "report.html"
    ).is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "report.html"}


def test_a_new_file_is_not_written_through_a_link_or_into_another_name_of_it(
    tmp_path: Path, elsewhere: Path
):
    (tmp_path / "link").symlink_to(elsewhere / "file")
    os.link(elsewhere / "file", tmp_path / "same")
    for name in ("link", "same", "fresh"):
        with new_file(tmp_path / name) as file:
            file.write_text(name)
        assert (tmp_path / name).read_text() == name
        copy_file(elsewhere / "table.md", tmp_path / name)
        assert (tmp_path / name).read_text() == "precious table.md"
        assert (tmp_path / name).stat().st_nlink == 1


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
@pytest.mark.parametrize("refused", [False, True])
def test_copies_are_whole_with_and_without_the_systems_help(
    tmp_path: Path, monkeypatch, size: int, refused: bool
):
    def no(*arguments):
        raise OSError("not between these")

    if refused and hasattr(os, "copy_file_range"):
        monkeypatch.setattr(os, "copy_file_range", no)
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content


def test_folders_are_copied_without_links(tmp_path: Path, elsewhere: Path):
    copy_folder(elsewhere, tmp_path / "copy")
    assert (
        tmp_path / "copy" / "state" / "current.json"
    ).read_text() == "precious state/current.json"
    (tmp_path / "copy" / "link").symlink_to(elsewhere)
    with pytest.raises(RequestError, match="symbolic link"):
        copy_folder(tmp_path / "copy", tmp_path / "again")


def test_removing_a_link_removes_nothing_else(tmp_path: Path, elsewhere: Path):
    for target in ("", "file", "nowhere"):
        (tmp_path / "link").symlink_to(elsewhere / target)
        remove(tmp_path / "link")
        assert not os.path.lexists(tmp_path / "link")
    remove(tmp_path / "absent")


def test_what_appears_in_the_end_takes_no_place_that_was_taken_meanwhile(
    tmp_path: Path, elsewhere: Path
):
    out = tmp_path / "model.gguf"
    partial = tmp_path / f".model.gguf.{os.getpid()}.partial"
    partial.symlink_to(elsewhere / "file")
    with pytest.raises(RequestError, match="something already"), appearing(out) as path:
        assert path == partial and not os.path.lexists(partial)
        path.write_text("new")
        out.symlink_to(elsewhere / "file")
    assert not os.path.lexists(partial)


def test_a_folder_of_our_own(tmp_path: Path, elsewhere: Path):
    assert own_folder(tmp_path / "new") == own_folder(tmp_path / "new")
    for target in ("", "file", "nowhere"):
        (tmp_path / "link").symlink_to(elsewhere / target)
        with pytest.raises(RequestError, match="symbolic link"):
            own_folder(tmp_path / "link")
        (tmp_path / "link").unlink()
    with pytest.raises(RequestError, match="not a folder"):
        own_folder(elsewhere / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize(
    "read",
    [
        read_bytes,
        sha256,
        read_json,
        read_sealed,
        lambda path: copy_file(path, path.with_name("new")),
    ],
)
def test_a_pipe_or_device_where_a_file_belongs_is_not_waited_for(tmp_path: Path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises((OSError, FlyweightError), match="pipe or a device"):
            read(tmp_path / name)
    assert not (tmp_path / "new").exists()


def test_a_home_folder_of_nobody_is_an_ordinary_name():
    assert user_path("~nobody-of-this-name/text") == Path("~nobody-of-this-name/text")
    assert user_path("~/text") == Path.home() / "text"
