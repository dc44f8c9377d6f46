"""Shards of a dataset of the Hugging Face hub, read over the network and never kept."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from flyweight.data.streams.shards import StreamShard, checked, is_text
from flyweight.errors import RequestError

_HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")


@dataclass(frozen=True)
class HubShards:
    """The training files of one config of a dataset, at the commit that was found first."""

    repository: str
    revision: str
    shards: tuple[StreamShard, ...]
    wait: float = 1.0

    @property
    def origin(self) -> str:
        """The repository and its commit."""
        return f"hf:{self.repository} at {self.revision}"

    @classmethod
    def find(cls, source: str, revision: str | None = None) -> HubShards:
        """Return the shards of `hf:owner/name[:config]`.

        The config is one that the dataset's card names, a folder of the repository, or a glob of
        its files. Raises RequestError where it is not written so, the hub cannot be reached, or
        there is no such config.
        """
        repository, _, config = source.removeprefix("hf:").partition(":")
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise RequestError(
                f"stream.source: {source!r} does not name a dataset; write hf:owner/name or "
                "hf:owner/name:config"
            )
        info = _info(source, repository, revision)
        sizes = {file.rfilename: file for file in info.siblings or ()}
        card = getattr(info.card_data, "configs", None) or ()
        names = list(_chosen(source, config, list(sizes), list(card)))
        shards = (_shard(name, sizes[name]) for name in names)
        return cls(repository, info.sha or revision or "main", checked(source, shards))

    def open(self, shard: StreamShard) -> AbstractContextManager[BinaryIO]:
        """Open a shard, of which only what is read comes over the network."""
        from huggingface_hub import HfFileSystem

        path = f"datasets/{self.repository}/{shard.name}"
        try:
            file: Any = HfFileSystem().open(path, "rb", revision=self.revision)
        except Exception as error:
            raise _refusal(f"{self.origin}: {shard.name}", error) from error
        return cast("AbstractContextManager[BinaryIO]", file)


def _info(source: str, repository: str, revision: str | None) -> Any:
    """Return what the hub says of a dataset: its commit, its files with their sizes, its card."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise RequestError(
            f"stream.source: {source} needs the `huggingface_hub` package: pip install "
            "'flyweight[hub]'"
        ) from error
    try:
        return HfApi().dataset_info(repository, revision=revision, files_metadata=True)
    except Exception as error:
        raise _refusal(f"stream.source: {source}", error) from error


def _refusal(what: str, error: Exception) -> RequestError:
    """Return the message for an error of the hub or of whatever HTTP library is under it.

    An error of the program itself is raised again.
    """
    own = type(error).__module__.split(".")[0] == "builtins"
    if own and not isinstance(error, OSError | ValueError):
        raise error
    return RequestError(
        f"{what} could not be read from the hub ({type(error).__name__}: {str(error)[:300]}); "
        "check the name and the network, or name files of this machine"
    )


def _chosen(
    source: str, config: str, names: Sequence[str], card: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield the files of a config; raise RequestError where there is no such one."""
    configs = {str(each.get("config_name", "default")): each for each in card}
    texts = [name for name in names if is_text(name)]
    if any(mark in config for mark in "*?["):
        yield from (name for name in texts if fnmatch.fnmatchcase(name, config))
        return
    if not config and len(configs) > 1 and "default" not in configs:
        known = ", ".join(list(configs)[:20])
        raise RequestError(f"stream.source: {source} has several configs; name one: {known}")
    if not config and configs:
        config = "default" if "default" in configs else next(iter(configs))
    if config in configs:
        patterns = list(_train_patterns(configs[config]))
        yield from (
            name for name in texts if any(fnmatch.fnmatchcase(name, each) for each in patterns)
        )
        return
    inside = [name for name in texts if not config or name.startswith(f"{config.rstrip('/')}/")]
    if config and not inside:
        known = ", ".join(list(configs)[:20]) or "none on its card"
        raise RequestError(
            f"stream.source: {source}: {config!r} is neither a config (there are {known}) nor a "
            "folder of files of text"
        )
    yield from (name for name in inside if not _is_held_out(name))


def _train_patterns(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the globs of a card's training files."""
    files = config.get("data_files") or f"{config.get('data_dir', '')}/**".lstrip("/")
    for entry in [files] if isinstance(files, str) else files:
        if isinstance(entry, str):
            yield from _globs(entry)
        elif entry.get("split", "train") == "train":
            paths = entry.get("path", ())
            for path in [paths] if isinstance(paths, str) else paths:
                yield from _globs(path)


def _globs(path: str) -> Iterator[str]:
    """Yield a card's path as a glob whose stars cross folders: of a folder, all that is in it."""
    yield path.replace("**/", "*").replace("**", "*")
    if not any(mark in path for mark in "*?["):
        yield f"{path.rstrip('/')}/*"


def _is_held_out(name: str) -> bool:
    """Return whether a name says that a file is of a split for validation or test."""
    words = name.lower().replace("-", "/").replace("_", "/").replace(".", "/").split("/")
    return any(word in _HELD_OUT for word in words)


def _shard(name: str, file: Any) -> StreamShard:
    checksum = file.lfs.sha256 if file.lfs is not None else file.blob_id
    return StreamShard(name, int(file.size or 0), str(checksum))
