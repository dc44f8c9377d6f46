"""Shards in folders of this machine."""

from __future__ import annotations

import glob as globbing
import hashlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from flyweight.core.files import reason, user_path
from flyweight.data.file_kinds import in_folder
from flyweight.data.reading import open_text, size
from flyweight.data.streams.shards import StreamShard, checked, is_text
from flyweight.errors import RequestError

LOOKED_AT = 1 << 20
"""Bytes of each shard that are read for its checksum."""


@dataclass(frozen=True)
class LocalShards:
    """Files of a glob, of a folder, or one file; names are relative to the folder of all."""

    root: Path
    shards: tuple[StreamShard, ...]
    origin: str = "this machine"
    wait: float = 0.05
    revision: str | None = field(default=None, init=False)

    @classmethod
    def find(cls, source: str, data_dir: Path | None = None) -> LocalShards:
        """Return the shards of a source, which is looked for here, then in `data_dir`.

        Raises RequestError where nothing matches, or a file cannot be read.
        """
        path = user_path(source)
        places = [path] if path.is_absolute() or data_dir is None else [path, data_dir / path]
        files = next((found for place in places if (found := _files(place))), [])
        if not files:
            raise RequestError(
                f"stream.source: no file matches {source!r} (looked from {Path.cwd()}); name a "
                "glob of shards such as 'shards/*.jsonl.gz', or hf:owner/name:config"
            )
        root = Path(os.path.commonpath([file.parent for file in files]))
        return cls(root, checked(source, (_shard(file, root) for file in files)))

    def open(self, shard: StreamShard) -> AbstractContextManager[BinaryIO]:
        """Open a shard; raise RequestError where it is gone or has another size than before."""
        path = self.root / shard.name
        if (found := size(path)) != shard.bytes:
            raise RequestError(f"{path} has {found} bytes, and had {shard.bytes} when it was found")
        return open_text(path)


def _files(place: Path) -> list[Path]:
    """Return the files of a folder, of a glob, or the file itself; nothing where there are none.

    Notes and programs of a folder are shards only where it has nothing else.
    """
    if place.is_dir():
        inside = place.rglob("*")
        files = [file for file in inside if file.is_file() and in_folder(file.name)]
        return [file for file in files if is_text(file.name)] or files
    if place.is_file():
        return [place]
    return [file for file in map(Path, globbing.glob(str(place), recursive=True)) if file.is_file()]


def _shard(path: Path, root: Path) -> StreamShard:
    try:
        with open_text(path) as file:
            start = hashlib.sha256(file.read(LOOKED_AT)).hexdigest()
    except OSError as error:
        raise RequestError(f"stream.source: {path} cannot be read: {reason(error)}") from error
    return StreamShard(path.relative_to(root).as_posix(), size(path), start)
