"""Reads what a run of W&B has recorded in its folder: a log of protobuf messages, cut into blocks of 32 KiB."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as protobuf

BLOCK = 2**15  # bytes; a chunk never crosses the end of one
HEAD = 7  # bytes before the first chunk, and before the payload of each: checksum 4, length 2, kind 1
WHOLE, LAST = 1, 4  # kinds of chunks that end a message


@dataclass
class Record:
    """What is in the record, dotted and nested keys alike as nested dictionaries."""

    folder: Path  # the one of the run below wandb/
    raw: bytes = b""  # the messages, joined
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)  # pattern -> the metric on its horizontal axis
    files: list[str] = field(default_factory=list)  # what is uploaded besides
    exit_code: int | None = None

    def series(self, name: str) -> list[tuple[float, float]]:
        """Epoch and value of a metric, row by row."""
        return [(row["epoch"], row[name]) for row in self.history if name in row]

    def table(self, key: str) -> dict[str, list]:
        """Columns and rows of a table."""
        return json.loads((self.folder / "files" / self.summary[key]["path"]).read_text())


def read(wandb: Path) -> Record:
    """The only run below a folder `wandb`."""
    (path,) = wandb.glob("*run-*/run-*.wandb")
    record = Record(path.parent)
    for payload in messages(path.read_bytes()):
        record.raw += payload
        message = protobuf.Record.FromString(payload)
        kind = message.WhichOneof("record_type")
        if kind == "run":
            record.run = message.run
            update(record.config, message.run.config.update)
        elif kind == "config":
            update(record.config, message.config.update)
        elif kind == "history":
            record.history.append(update({}, message.history.item))
            record.summary |= record.history[-1]
        elif kind == "summary":
            update(record.summary, message.summary.update)
        elif kind == "metric":
            record.metrics[message.metric.name or message.metric.glob_name] = message.metric.step_metric
        elif kind == "files":
            record.files += [file.path for file in message.files.files]
        elif kind == "exit":
            record.exit_code = message.exit.exit_code
    return record


def messages(log: bytes):
    """The payloads, put together from their chunks."""
    start, parts = HEAD, b""
    while start + HEAD <= len(log):
        if (left := BLOCK - start % BLOCK) < HEAD:  # too short for a head: filled up
            start += left
            continue
        length, kind = int.from_bytes(log[start + 4 : start + 6], "little"), log[start + 6]
        start += HEAD
        parts += log[start : start + length]
        start += length
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""


def update(values: dict[str, Any], items) -> dict[str, Any]:
    """Put items, whose keys may be paths, into nested dictionaries."""
    for item in items:
        *parents, last = item.nested_key or [item.key]
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = json.loads(item.value_json)
    return values
