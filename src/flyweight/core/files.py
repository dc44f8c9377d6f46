"""Write files whole or not at all, and never through a link to somewhere else.

Whole files come by rename, and a full disk gives a plain error. A new file is created only where
nothing is: no link decides where its content goes. In the runs root, no folder is entered through a
link either.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from flyweight.errors import FlyweightError, RequestError

_FULL = {errno.ENOSPC, errno.EDQUOT}


def reason(error: Exception) -> str:
    """Return why the system refused a file, without the error's number and path.

    For other errors, return the library's own words.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into a FlyweightError that says what to do.

    Libraries that write in native code report such a refusal in error types of their own: those are
    known by their message.
    """
    try:
        yield
    except FlyweightError:
        raise
    except OSError as error:
        raise _explained(path, error.errno in _FULL, error) from error
    except Exception as error:  # native code has error types of its own
        if "No space left" not in str(error) and "os error 28" not in str(error):
            raise
        raise _explained(path, True, error) from error


def _explained(path: Path, full: bool, error: Exception) -> FlyweightError:
    if full:
        return FlyweightError(
            f"the disk is full: {path} could not be written. Finished work is kept; free some "
            f"space (`flyweight ls` shows what the runs take) and run the same command again"
        )
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
        return RequestError(
            f"{path} cannot be written ({error}); choose another folder with --runs"
        )
    return FlyweightError(f"{path}: {error}")


def refuse_link(path: Path) -> None:
    """Raise RequestError where `path` is a symbolic link.

    In the runs root such a link would decide where files are written and deleted.
    """
    if path.is_symlink():
        raise RequestError(
            f"{path} is a symbolic link, which flyweight did not make: nothing is written or "
            f"removed through it. Remove the link, or put the folder or file itself there"
        )


def refuse_links(folder: Path) -> None:
    """Raise RequestError where `folder` or anything in it is a symbolic link."""
    refuse_link(folder)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            refuse_link(Path(place) / name)


def own_folder(path: Path) -> tuple[int, int]:
    """Make a folder of the runs root where it is missing; return its device and inode numbers.

    Raises RequestError where there is a link or a file instead.
    """
    with disk_errors(path):
        with suppress(FileExistsError):
            path.mkdir(parents=True)
        refuse_link(path)
        status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise RequestError(
            f"{path} is not a folder, but one of flyweight's has this name; move it elsewhere"
        )
    return status.st_dev, status.st_ino


def refuse_other(path: Path, identity: tuple[int, int]) -> None:
    """Raise FlyweightError where `path` is not the folder of `identity` (see `own_folder`)."""
    refuse_link(path)
    try:
        status = path.lstat()
    except FileNotFoundError:
        status = None
    if (
        status is None
        or not stat.S_ISDIR(status.st_mode)
        or (status.st_dev, status.st_ino) != identity
    ):
        raise FlyweightError(
            f"{path} was replaced by another folder while it was made: nothing more is written "
            f"there;"
            " run the same command again"
        )


def remove_inside(folder: Path, identity: tuple[int, int], keep: Collection[str] = ()) -> None:
    """Remove what is in a folder that `own_folder` identified, but for the names of `keep`.

    Where the system can, that folder itself is emptied, whatever takes its name meanwhile.
    """
    refuse_other(folder, identity)
    if os.name != "posix" or not shutil.rmtree.avoids_symlink_attacks:
        for path in folder.iterdir():
            if path.name not in keep:
                remove(path)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != identity:
            refuse_other(folder, (status.st_dev, -1))
        for name in sorted(set(os.listdir(descriptor)) - set(keep)):
            if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=descriptor)
            else:
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with everything in it, if it exists.

    Links are removed, and what they lead to stays.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new, empty file for a library to write.

    A file that was there is replaced, not written into. In the end the file has the modes of any
    new file: libraries that write in native code may give it others.
    """
    path.unlink(missing_ok=True)
    with open(path, "xb") as file:
        modes = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    yield path
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fchmod(descriptor, modes)
        finally:
            os.close(descriptor)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content to a new file, which replaces what was there.

    The two share blocks where the file system can do so. They are never hard links, where a change
    of one file would change the other.
    """
    with open(source, "rb", buffering=0, opener=_opened) as content:
        target.unlink(missing_ok=True)
        _copy(content, target)


def _copy(content: BinaryIO, target: Path) -> None:
    with open(target, "xb") as copy:
        if hasattr(os, "copy_file_range"):
            # OSError: not between these file systems; the rest is read and written
            with suppress(OSError):
                while os.copy_file_range(content.fileno(), copy.fileno(), 1 << 30):
                    pass
        shutil.copyfileobj(content, copy, 1 << 20)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder's files and folders into a new folder, or over those of an existing one.

    Raises RequestError for a link in it.
    """
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        refuse_link(path)
        if path.is_dir():
            copy_folder(path, target / path.name)
        else:
            copy_file(path, target / path.name)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file or nothing: to a new neighbour first, synced, then renamed."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.unlink(missing_ok=True)
        try:
            with open(partial, "x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def utf8_name(path: Path, what: str) -> Path:
    """Return `path`; raise RequestError where its whole name is not UTF-8 text.

    No manifest could hold such a name. `what` names the path in the message.
    """
    whole = os.path.abspath(path)
    try:
        whole.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{what}: the name {whole!a} is not UTF-8 text; choose a folder with another name"
        ) from error
    return path


def user_path(word: str) -> Path:
    """Return the path that a word means: `~` and `~name` stand for home folders.

    The word stays as it is where there is no such user.
    """
    return Path(os.path.expanduser(word))


def is_path(reference: str) -> bool:
    """Return whether a word is written as a path (`./name`, `~/name`, `/name`), not as a name."""
    if os.sep in reference or (os.altsep and os.altsep in reference):
        return True
    return reference in (".", "..", "~")


def refuse_existing(out: Path) -> None:
    """Raise RequestError where `out` exists already and is not an empty folder."""
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir() or any(out.iterdir())):
        raise RequestError(
            f"--out {out}: there is something already; give a name that is not taken, or remove "
            f"it first"
        )


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Yield a path for a new file or folder, which becomes `out` at the end.

    After an error `out` does not appear at all. Raises RequestError where `out` exists already.
    """
    refuse_existing(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
    try:
        yield partial
        refuse_existing(out)
        with disk_errors(out):
            os.replace(partial, out)
    finally:
        with suppress(OSError):
            remove(partial)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity are refused."""
    write_text(path, _json(value))


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises OSError also for a pipe, a socket or a device: reading one may never end.
    """
    with open(path, "rb", opener=_opened) as file:
        return file.read()


def _opened(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # a folder has an error of its own
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "this is a pipe or a device, not a file", path)


def read_json(path: Path) -> Any:
    """Return a JSON file's value.

    Raises FlyweightError, naming the file, where it is missing or broken.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise FlyweightError(f"{path} is missing") from error
    except (ValueError, OSError, RecursionError) as error:
        raise FlyweightError(
            f"{path} cannot be read ({error}): it is damaged; delete its folder and run again"
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, reading it in pieces."""
    with open(path, "rb", opener=_opened) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """Return the SHA-256 of plain data in hexadecimal.

    It is that of canonical JSON: sorted keys, no spaces.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def write_sealed(path: Path, content: Mapping[str, object]) -> dict[str, object]:
    """Write plain data with its digest, whole or not at all; return the data with the digest."""
    whole = {**content, "digest": digest(content)}
    write_json(path, whole)
    return whole


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` wrote.

    Raises FlyweightError, naming the file, where it is missing or any byte differs.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not _intact(value, read_bytes(path)):
        raise FlyweightError(f"{path} was changed after it was written: its digest is another")
    return value


def _intact(value: dict[str, Any], raw: bytes) -> bool:
    try:
        content = {key: inner for key, inner in value.items() if key != "digest"}
        return value.get("digest") == digest(content) and raw == _json(value).encode()
    except ValueError:  # a number that we do not write, or not text
        return False


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable (a no-op where the platform cannot open folders)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
