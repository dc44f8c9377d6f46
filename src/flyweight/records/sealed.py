"""Records as files hold them: frozen models, and those that are a sealed file of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from flyweight.core.files import read_bytes, read_sealed, reason, write_sealed
from flyweight.errors import FlyweightError, RequestError


class Record(BaseModel):
    """Base of all parts of a summary: frozen, unknown keys refused, infinities allowed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", protected_namespaces=()
    )


class SealedRecord(Record):
    """A record in a file of its own, which carries its digest.

    A subclass names the `file`, says in `again` how it is written anew, and in `unfinished` what a
    folder without the file is.
    """

    file: ClassVar[str]
    again: ClassVar[str]
    unfinished: ClassVar[str]

    def write(self, folder: Path) -> Path:
        """Write the file into a folder, whole or not at all, and return its path."""
        write_sealed(folder / self.file, json.loads(self.model_dump_json()))
        return folder / self.file

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file of a folder.

        Raises RequestError where it is missing. Raises FlyweightError, naming every fault, where it
        is damaged.
        """
        path = folder / cls.file
        try:
            content = json.loads(read_bytes(path))
            if isinstance(content, dict):
                content.pop("digest", None)
            record = cls.model_validate_json(json.dumps(content))
            read_sealed(path)
            return record
        except FlyweightError as error:
            raise FlyweightError(f"{error}; {cls.again}") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RequestError(f"{folder} {cls.unfinished}") from error
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or cls.file}: {fault['msg']}"
                for fault in error.errors()
            )
            raise FlyweightError(f"{path} cannot be read ({faults}); {cls.again}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise FlyweightError(f"{path} cannot be read ({reason(error)}); {cls.again}") from error
