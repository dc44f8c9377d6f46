"""A folder that is held open: what is written goes there, and errors name it as its user knows it."""

import os
import shutil

import pytest

from flyweight.core.files import write_text
from flyweight.core.pinned import PinnedFolder
from flyweight.errors import FlyweightError, RequestError

linux = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux has /proc")


def swapped(tmp_path):
    """Move the folder away and put a link to somebody's folder in its place."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.yaml").write_text("theirs")
    os.rename(tmp_path / "run", tmp_path / "moved")
    (tmp_path / "run").symlink_to(outside)
    return outside


@linux
def test_what_is_written_after_a_swap_lands_in_the_folder_itself(tmp_path):
    with pytest.raises(RequestError, match="link"), PinnedFolder(tmp_path / "run") as place:
        path = place.path
        outside = swapped(tmp_path)
        write_text(path / "config.yaml", "ours")
        write_text(path / "model" / "config.json", "{}")
    assert [file.read_text() for file in outside.iterdir()] == ["theirs"]
    assert (tmp_path / "moved" / "config.yaml").read_text() == "ours"
    assert (tmp_path / "moved" / "model" / "config.json").is_file()


def test_a_swap_is_noticed_when_the_path_is_asked_for_again(tmp_path):
    place = PinnedFolder(tmp_path / "run")
    swapped(tmp_path)
    with pytest.raises(RequestError, match="run is a symbolic link"):
        place.path  # noqa: B018 (asking is what raises)


def test_another_folder_of_the_name_is_not_published(tmp_path):
    place = PinnedFolder(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other").rename(tmp_path / "run")
    with pytest.raises(FlyweightError, match="run was replaced by another folder"):
        place.rename(tmp_path / "final")
    assert not (tmp_path / "final").exists()


def test_renaming_keeps_the_path_valid(tmp_path):
    with PinnedFolder(tmp_path / "run") as place:
        (place.path / "file").write_text("content")
        place.rename(tmp_path / "final")
        assert (place.path / "file").read_text() == "content"
        assert place.named(place.path / "file") == tmp_path / "final" / "file"


def test_errors_name_the_folder_and_not_the_path_through_it(tmp_path):
    with pytest.raises(FlyweightError) as stop, PinnedFolder(tmp_path / "run") as place:
        raise FlyweightError(f"{place.path}/model cannot be read, nor {place.path}99")
    assert str(stop.value).startswith(f"{tmp_path}/run/model cannot be read")
    with pytest.raises(FileNotFoundError) as missing, PinnedFolder(tmp_path / "run") as place:
        open(place.path / "nothing")  # noqa: SIM115 (it does not open)
    assert missing.value.filename == f"{tmp_path}/run/nothing"


def test_a_link_in_its_place_is_refused(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path)
    with pytest.raises(RequestError, match="is a symbolic link"):
        PinnedFolder(tmp_path / "run")


@linux
def test_no_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with PinnedFolder(tmp_path / "run") as place:
            (place.path / "file").write_text("content")
    assert len(os.listdir("/proc/self/fd")) == before
