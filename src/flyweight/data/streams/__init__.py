"""Texts that are read while a model trains: shards, their rows, and the order of documents."""

from __future__ import annotations

from pathlib import Path

from flyweight.config.stream import Stream
from flyweight.data.streams.hub import HubShards
from flyweight.data.streams.local import LocalShards
from flyweight.data.streams.shards import ShardList


def open_stream(stream: Stream, data_dir: Path | None = None) -> ShardList:
    """Return the shards of a stream, of which nothing but names, sizes and beginnings is read.

    Raises RequestError where there are none, or the hub cannot be reached.
    """
    if stream.of_hub:
        return HubShards.find(stream.source, stream.revision)
    return LocalShards.find(stream.source, data_dir)
