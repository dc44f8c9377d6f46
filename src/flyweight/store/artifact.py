"""Artifacts: immutable folders named by what made them, and the store that makes each once.

runs/pretrain-3fa91c02/            published by one rename, then never written again
  manifest.json  config.yaml  metrics.json  events.jsonl  model/ ...
runs/pretrain-3fa91c02.partial/    being made; its state/ is where a killed run goes on

The resume point is removed only after the rename: a kill at any instant costs no finished work.

The root itself may be a symbolic link. Inside it, flyweight makes only the links from a recipe's
folder to its artifacts. Any other link in the place of a folder or file that is written here is
refused and not followed.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock
import yaml

from flyweight.core.events import Events, Watcher, ignore
from flyweight.core.files import (
    appearing,
    copy_file,
    copy_folder,
    digest,
    disk_errors,
    own_folder,
    read_json,
    read_sealed,
    refuse_link,
    refuse_links,
    remove_inside,
    sha256,
    sync_file,
    write_sealed,
    write_text,
)
from flyweight.core.pinned import PinnedFolder
from flyweight.errors import FlyweightError, RequestError

FORMAT = 1
STATE, PARTIAL, EVENTS, LOCKS = "state", ".partial", "events.jsonl", ".locks"
NAMED = re.compile(r"[a-z_]+-[0-9a-f]{8}")
"""What an artifact's folder is called; a copy may have any other name."""


@dataclass(frozen=True)
class Identity:
    """Everything that an artifact's content depends on; equal identities are the same artifact.

    `machine` and `libraries` are set for measurements alone: a trained model is the same model on
    every machine.
    """

    stage: str
    version: int
    config: Mapping[str, Any]
    parents: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None
    tokenizer: str | None = None
    seed: int = 0
    threads: int = 1
    dtype: str = "fp32"
    device: str = "cpu"
    machine: str | None = None
    libraries: Mapping[str, str] | None = None

    @property
    def id(self) -> str:
        """The artifact's name: its stage and eight hexadecimal digits of the identity's digest."""
        return f"{self.stage}-{digest(asdict(self))[:8]}"


@dataclass(frozen=True, repr=False)
class Artifact:
    """A finished, checked artifact folder."""

    path: Path
    manifest: dict[str, Any]

    def __repr__(self) -> str:
        return f"<Artifact {self.path}>"

    @classmethod
    def open(cls, path: Path) -> Artifact:
        """Open a folder and check every file against its manifest.

        Raises FlyweightError that names the damaged file.
        """
        artifact = cls.glance(path)
        advice = f"Delete the folder {path} and run the same command again"
        for name, entry in artifact.manifest["files"].items():
            file = path / name
            problem = None
            if file.is_symlink():
                problem = "is a symbolic link instead of the file that was written"
            elif not file.is_file():
                problem = "is missing"
            elif file.stat().st_size != entry["bytes"]:
                problem = (
                    f"has {file.stat().st_size} bytes instead of {entry['bytes']}: it was "
                    f"truncated or changed"
                )
            elif sha256(file) != entry["sha256"]:
                problem = "was changed: its checksum is another"
            if problem:
                raise FlyweightError(f"{file} {problem}. {advice}")
        if strange := sorted(
            set(_files(path)) - artifact.manifest["files"].keys() - {"manifest.json"}
        ):
            raise FlyweightError(
                f"{path / strange[0]} is not in the artifact's manifest: it was put there later. "
                f"{advice}"
            )
        return artifact

    @classmethod
    def glance(cls, path: Path) -> Artifact:
        """Open a folder by its manifest alone, without reading its files.

        Raises FlyweightError where the manifest is damaged.
        """
        file, advice = (
            path / "manifest.json",
            f"delete the folder {path} and run the same command again",
        )
        try:
            manifest = read_sealed(file)
        except FlyweightError as error:
            raise FlyweightError(f"{error}; {advice}") from error
        if not isinstance(manifest.get("files"), dict):
            raise FlyweightError(
                f"{file} is not the manifest of an artifact: it lists no files; {advice}"
            )
        try:
            named = (
                manifest["id"]
                == f"{manifest['identity']['stage']}-{digest(manifest['identity'])[:8]}"
            )
        except (KeyError, TypeError) as error:
            raise FlyweightError(
                f"{file} is not the manifest of an artifact ({error!r}); {advice}"
            ) from error
        if not named:
            raise FlyweightError(
                f"{file} was changed: its identity is not that of {manifest['id']}; {advice}"
            )
        if NAMED.fullmatch(name := path.name.removesuffix(PARTIAL)) and name != manifest["id"]:
            raise FlyweightError(
                f"{path} holds another artifact, {manifest['id']}: it was renamed or swapped; "
                f"{advice}"
            )
        return cls(path, manifest)

    @property
    def id(self) -> str:
        """The artifact's name, `<stage>-<hash8>`."""
        return self.manifest["id"]

    @property
    def stage(self) -> str:
        """The kind of stage that made it."""
        return self.manifest["identity"]["stage"]

    @property
    def facts(self) -> dict[str, Any]:
        """The stage's figures on how it was made: steps, tokens, FLOPs, seconds and more."""
        return self.manifest["facts"]

    @property
    def identity(self) -> dict[str, Any]:
        """The identity as plain data."""
        return self.manifest["identity"]

    def copy(self, out: Path) -> Artifact:
        """Return a copy in the new folder `out`, which appears whole or not at all.

        Raises RequestError where `out` exists already and is not an empty folder.
        """
        with appearing(out) as partial, disk_errors(out):
            copy_folder(self.path, partial)
        return Artifact.open(out)

    def metrics(self) -> dict[str, Any]:
        """Return the content of `metrics.json`; {} for an artifact without measurements."""
        path = self.path / "metrics.json"
        return read_json(path) if path.exists() else {}


@dataclass(frozen=True)
class Damaged:
    """An artifact folder whose manifest cannot be believed, and why."""

    path: Path
    why: str


@dataclass
class Draft:
    """An artifact that is being made.

    Write its files into `path`, resume from `state`, log through `events`.
    """

    place: PinnedFolder
    identity: Identity
    events: Events

    @property
    def path(self) -> Path:
        """The folder to write into.

        Asking raises FlyweightError where a link or another folder has taken its place.
        """
        return self.place.path

    @property
    def name(self) -> str:
        """The folder's own name, `<id>.partial`."""
        return self.place.folder.name

    def new_folder(self, name: str) -> Path:
        """Make a folder in it and return its path.

        Raises FlyweightError where something has that name already.
        """
        path = self.path / name
        with disk_errors(path):
            path.mkdir()
        return path

    @property
    def state(self) -> Path:
        """The folder of the resume point; it is left out of the finished artifact."""
        return self.path / STATE


Work = Callable[[Draft], dict[str, Any]]
"""Makes an artifact's files in a draft and returns its facts."""


def lock_file(root: Path, name: str) -> filelock.BaseFileLock:
    """Return the lock of a name under a runs root.

    Raises RequestError where a link or something else than a file has its place. filelock keeps
    the file's content, so a hard link to somebody's file does no harm.
    """
    path = root / LOCKS / f"{name}.lock"
    refuse_link(path)
    if path.exists() and not path.is_file():
        raise RequestError(
            f"{path} is not a lock file, but one of flyweight's has this name; move it elsewhere"
        )
    return filelock.FileLock(path)


class Store:
    """The runs root: finds artifacts by identity and makes what is missing, once, under a lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Create the root; raise RequestError where that is impossible."""
        if self.root.exists() and not self.root.is_dir():
            raise RequestError(f"--runs {self.root}: this is a file, not a folder")
        own_folder(self.root / LOCKS)

    def find(self, identity: Identity) -> Artifact | None:
        """Return the finished artifact of this identity, checked, or None."""
        path = self.root / identity.id
        refuse_link(path)
        if not path.is_dir():
            return None
        artifact = Artifact.open(path)
        if digest(artifact.identity) != digest(asdict(identity)):
            raise FlyweightError(
                f"{path} belongs to another identity (a collision or a copied folder); delete it "
                f"and run again"
            )
        if (path / STATE).exists():  # killed between the rename and the end of its tidying
            with PinnedFolder(path) as place:
                shutil.rmtree(place.path / STATE, ignore_errors=True)
        return artifact

    def obtain(
        self, identity: Identity, work: Work, command: str = "", watch: Watcher = ignore
    ) -> tuple[Artifact, bool]:
        """Return (artifact, reused): the finished artifact, or the one that `work` makes now.

        Waits for another process that is making the same artifact. A killed or failed attempt
        leaves its `.partial` folder, where `work` finds its own resume point.
        """
        if artifact := self.find(identity):
            return artifact, True
        with self.locked(identity.id, watch, "another process is making it"):
            if artifact := self.find(identity):
                return artifact, True
            return self._make(identity, work, command, watch), False

    @contextmanager
    def locked(
        self, name: str, watch: Watcher = ignore, why: str = "another process is writing there"
    ) -> Iterator[None]:
        """Hold the lock of a name under the root.

        Waits for a process that holds it, and says so to `watch`.
        """
        self.prepare()
        lock = lock_file(self.root, name)
        with disk_errors(Path(lock.lock_file)):
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                watch("waiting", {"id": name, "why": why})
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def recipe_folder(self, name: str, watch: Watcher = ignore) -> Iterator[PinnedFolder]:
        """Yield the folder of a recipe under its lock: one process at a time writes there.

        Half-written files of killed processes are removed first. Raises RequestError where the
        folder is a symbolic link.
        """
        with self.locked(name, watch), PinnedFolder(self.root / name) as place:
            with disk_errors(place.folder):
                for path in place.path.glob(f".*{PARTIAL}"):
                    path.unlink(missing_ok=True)
            yield place

    def _make(self, identity: Identity, work: Work, command: str, watch: Watcher) -> Artifact:
        with PinnedFolder(self.root / f"{identity.id}{PARTIAL}") as place:
            if manifest := self._whole(place.folder, identity):
                return self._rename(place, manifest)
            log = Events(place.path / EVENTS, watch, guard=lambda: place.path)
            draft = Draft(place, identity, log)
            with disk_errors(place.folder):
                if lost := _leave_only_the_resume_point(draft):
                    watch(
                        "unusable",
                        {
                            "path": str(place.named(lost)),
                            "why": "it belongs to no whole checkpoint; the stage starts anew",
                        },
                    )
                write_text(
                    draft.path / "config.yaml",
                    yaml.safe_dump(dict(identity.config), sort_keys=False, allow_unicode=True),
                )
            facts = work(draft)
            return self._publish(draft, facts, command)

    def _whole(self, partial: Path, identity: Identity) -> dict[str, Any] | None:
        """Return the manifest of a whole artifact whose process was killed before the rename.

        Return None where the folder is not such an artifact: it is made again then.
        """
        if not (partial / "manifest.json").is_file():
            return None
        try:
            whole = Artifact.open(partial)
        except FlyweightError:
            return None
        return whole.manifest if digest(whole.identity) == digest(asdict(identity)) else None

    def _publish(self, draft: Draft, facts: dict[str, Any], command: str) -> Artifact:
        partial = draft.path
        with disk_errors(draft.place.folder):
            names = [name for name in _files(partial) if name != "manifest.json"]
            for name in names:
                refuse_link(partial / name)
            manifest: dict[str, Any] = {
                "format": FORMAT,
                "id": draft.identity.id,
                "identity": asdict(draft.identity),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "command": command,
                "facts": facts,
                "files": {
                    name: {
                        "bytes": (partial / name).stat().st_size,
                        "sha256": sha256(partial / name),
                    }
                    for name in names
                },
            }
            for name in names:
                sync_file(partial / name)
            manifest = write_sealed(draft.path / "manifest.json", manifest)
        return self._rename(draft.place, manifest)

    def _rename(self, place: PinnedFolder, manifest: dict[str, Any]) -> Artifact:
        final = self.root / manifest["id"]
        with disk_errors(final):
            place.rename(final)
        shutil.rmtree(place.path / STATE, ignore_errors=True)
        return Artifact(final, manifest)

    def artifacts(self) -> list[Artifact]:
        """Return every finished artifact under the root whose manifest is whole, oldest first.

        Only manifests are read.
        """
        return [entry for entry in self.entries() if isinstance(entry, Artifact)]

    def entries(self) -> list[Artifact | Damaged]:
        """Return every artifact folder under the root, oldest first, the damaged ones last.

        Only manifests are read.
        """
        whole: list[Artifact] = []
        damaged: list[Artifact | Damaged] = []
        for path in sorted(self.root.glob("*-????????")):
            if not NAMED.fullmatch(path.name) or not path.is_dir():
                continue
            try:
                whole.append(Artifact.glance(path))
            except FlyweightError as error:
                damaged.append(Damaged(path, str(error)))
        whole.sort(key=lambda artifact: artifact.manifest["created"])
        return [*whole, *damaged]


def _files(path: Path) -> Iterator[str]:
    """Yield an artifact's files, without its resume point and without hidden files.

    File managers leave hidden files. A link counts as a file.
    """
    for folder, names, files in os.walk(path):
        inside = Path(folder).relative_to(path)
        files += [name for name in names if (Path(folder) / name).is_symlink()]
        names[:] = sorted(
            name for name in names if not (name.startswith(".") or inside / name == Path(STATE))
        )
        yield from (
            (inside / name).as_posix() for name in sorted(files) if not name.startswith(".")
        )


def _leave_only_the_resume_point(draft: Draft) -> Path | None:
    """Clear what a killed attempt left, except its checkpoint and its log.

    Return a checkpoint that could not be kept, or None. The log is copied to a file of its own
    here: it is appended to, and may be a hard link. Raises RequestError for a symbolic link among
    the kept files.
    """
    partial, events = draft.path, draft.path / EVENTS
    refuse_links(partial / STATE)
    refuse_link(events)
    whole = (partial / STATE / "current.json").exists()
    lost = None if whole else next(partial.glob(f"{STATE}/step-*"), None)
    names = []
    if whole:
        names = [STATE, EVENTS] if events.is_file() else [STATE]
    remove_inside(draft.place.folder, draft.place.made, names)
    if events.exists():
        copy = partial / f".{EVENTS}{PARTIAL}"
        copy_file(events, copy)
        os.replace(copy, events)
    return lost
