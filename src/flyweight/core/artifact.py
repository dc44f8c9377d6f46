"""Artifacts: immutable run folders named by what made them, and the store that makes each of them once.

runs/pretrain-3fa91c02/            published by one rename, then never written again
  manifest.json  config.yaml  metrics.json  events.jsonl  model/ ...
runs/pretrain-3fa91c02.partial/    being made; its state/ is where a killed run goes on
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock
import yaml

from flyweight.core.events import Events, Watcher, ignore
from flyweight.core.files import digest, disk_errors, read_json, sha256, sync_folder, write_json, write_text
from flyweight.errors import FlyweightError, RequestError

FORMAT = 1


@dataclass(frozen=True)
class Identity:
    """Everything that an artifact's content depends on; two equal identities are the same artifact.

    `machine` and `libraries` are set for measurements alone: a trained model is the same model elsewhere.
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


@dataclass(frozen=True)
class Artifact:
    """A finished, checked artifact folder."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Artifact:
        """Open a folder and check every file against its manifest; raise FlyweightError naming what is damaged."""
        manifest = read_json(path / "manifest.json")
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
            raise FlyweightError(f"{path / 'manifest.json'} is damaged; delete {path} and run again")
        if manifest.get("digest") != digest({k: v for k, v in manifest.items() if k != "digest"}):
            raise FlyweightError(f"{path / 'manifest.json'} was changed after it was written; delete {path} and run again")
        for name, entry in manifest["files"].items():
            file = path / name
            problem = None
            if not file.is_file():
                problem = "is missing"
            elif file.stat().st_size != entry["bytes"]:
                problem = f"has {file.stat().st_size} bytes instead of {entry['bytes']}: it was truncated or changed"
            elif sha256(file) != entry["sha256"]:
                problem = "was changed: its checksum is another"
            if problem:
                raise FlyweightError(f"{file} {problem}. Delete the folder {path} and run the same command again")
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
        """What the stage tells of its making (steps, tokens, FLOPs, seconds, ...)."""
        return self.manifest["facts"]

    @property
    def identity(self) -> dict[str, Any]:
        """The identity as plain data."""
        return self.manifest["identity"]

    def copy(self, out: Path) -> Artifact:
        """Return a copy of the artifact in the new folder `out`, which appears whole or not at all."""
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RequestError(f"--out {out}: there is something already; name a new folder")
        partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
        try:
            with disk_errors(out):
                shutil.copytree(self.path, partial)
                os.replace(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Artifact.open(out)

    def metrics(self) -> dict[str, Any]:
        """Return `metrics.json`; an artifact without measurements has none: {}."""
        path = self.path / "metrics.json"
        return read_json(path) if path.exists() else {}


@dataclass
class Draft:
    """An artifact being made: write into `path`, resume from `state`, tell what happened through `events`."""

    path: Path
    identity: Identity
    events: Events
    started: float

    @property
    def state(self) -> Path:
        """The folder of the resume point; it is left out of the finished artifact."""
        return self.path / "state"


Work = Callable[[Draft], dict[str, Any]]
"""Makes an artifact's files in a draft and returns its facts."""


class Store:
    """The runs root: finds artifacts by identity and makes what is missing, once, under a lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Create the root; raise RequestError when that is impossible."""
        if self.root.exists() and not self.root.is_dir():
            raise RequestError(f"--runs {self.root}: this is a file, not a folder")
        with disk_errors(self.root):
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)

    def find(self, identity: Identity) -> Artifact | None:
        """Return the finished artifact of this identity, checked, or None."""
        path = self.root / identity.id
        if not path.is_dir():
            return None
        artifact = Artifact.open(path)
        if digest(artifact.identity) != digest(asdict(identity)):
            raise FlyweightError(
                f"{path} belongs to another identity (a collision or a copied folder); delete it and run again"
            )
        return artifact

    def obtain(self, identity: Identity, work: Work, command: str = "", watch: Watcher = ignore) -> tuple[Artifact, bool]:
        """Return (artifact, reused): the finished one, or the one that `work` makes now.

        Another process that is making the same artifact is waited for. A killed or failed attempt leaves its `.partial` folder,
        and `work` finds its own resume point there.
        """
        if artifact := self.find(identity):
            return artifact, True
        self.prepare()
        lock = filelock.FileLock(self.root / ".locks" / f"{identity.id}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            watch("waiting", {"id": identity.id, "why": "another process is making it"})
            lock.acquire()
        try:
            if artifact := self.find(identity):
                return artifact, True
            return self._make(identity, work, command, watch), False
        finally:
            lock.release()

    def _make(self, identity: Identity, work: Work, command: str, watch: Watcher) -> Artifact:
        partial = self.root / f"{identity.id}.partial"
        with disk_errors(partial):
            _leave_only_the_resume_point(partial)
            partial.mkdir(parents=True, exist_ok=True)
            write_text(partial / "config.yaml", yaml.safe_dump(dict(identity.config), sort_keys=False, allow_unicode=True))
        draft = Draft(partial, identity, Events(partial / "events.jsonl", watch), time.time())
        facts = work(draft)
        return self._publish(draft, facts, command)

    def _publish(self, draft: Draft, facts: dict[str, Any], command: str) -> Artifact:
        partial, final = draft.path, self.root / draft.identity.id
        shutil.rmtree(draft.state, ignore_errors=True)
        files = sorted(path for path in partial.rglob("*") if path.is_file() and path.name != "manifest.json")
        with disk_errors(partial):
            manifest: dict[str, Any] = {
                "format": FORMAT,
                "id": draft.identity.id,
                "identity": asdict(draft.identity),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "command": command,
                "facts": facts,
                "files": {
                    path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
                    for path in files
                },
            }
            manifest["digest"] = digest(manifest)
            for path in files:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            write_json(partial / "manifest.json", manifest)
            sync_folder(partial)
            os.rename(partial, final)
            sync_folder(self.root)
        return Artifact(final, manifest)

    def artifacts(self) -> list[Artifact]:
        """Return every finished artifact under the root, oldest first."""
        found = [Artifact.open(path.parent) for path in self.root.glob("*-????????/manifest.json")]
        return sorted(found, key=lambda artifact: artifact.manifest["created"])


def _leave_only_the_resume_point(partial: Path) -> None:
    """Clear what a killed attempt left, but for its checkpoint and the log that belongs to it."""
    if not partial.exists():
        return
    kept = {"state", "events.jsonl"} if (partial / "state" / "current.json").exists() else set()
    for path in partial.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
