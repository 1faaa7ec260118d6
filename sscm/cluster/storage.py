"""Whether a workspace can be read and written from every node, and is one place for all of them."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from sscm import storage
from sscm.cluster.crew import Answer, Crew
from sscm.cluster.findings import COMMAND, Finding
from sscm.errors import SscmError
from sscm.workspace import Workspace, open_workspace

CHECK = "workspace"
SLOW_MS = 1000.0
"""Milliseconds for a small file above which a training's manifests and checkpoints wait noticeably."""
CONTENT_BYTES = 1024


def check_workspace(crew: Crew, uri: str) -> Iterator[Finding]:
    """Try a workspace out.

    Each node writes a file of its own and reads it; then each reads the one that the next has written, so that folders
    of the same name that are not the same folder are found out; then each deletes its own and lists what is left.

    Args:
        crew: who is asked.
        uri: of the workspace.
    """
    try:
        workspace = _quick(open_workspace(uri), crew.seconds)
    except SscmError as error:
        yield refused(COMMAND, str(error))
        return
    folder = f".check-{secrets.token_hex(8)}"
    files = {name: (f"{number}", secrets.token_bytes(CONTENT_BYTES)) for number, name in enumerate(crew.names)}
    patience = crew.seconds / 4  # after which the attempt in hand may still take as long
    tried = crew.ask_each({name: _asking("try_out", workspace, folder, *files[name], patience) for name in crew.names})
    wrote = [name for name, answer in tried.items() if _error_of(answer) is None]
    # In a ring: whatever sets of nodes share a folder, some node looks for the file of one outside its set.
    others = dict(zip(wrote, [*wrote[1:], *wrote[:1]], strict=True)) if len(wrote) > 1 else {}
    try:
        read = crew.ask_each(
            {name: _asking("read_of_another", workspace, folder, *files[other]) for name, other in others.items()}
        )
    finally:
        deleted = crew.ask_each({name: _asking("delete", workspace, folder, files[name][0]) for name in wrote})
        tidied = crew.ask_each({name: _asking("tidy", workspace, folder, tried[name].value["made"]) for name in wrote})
    yield from judge_workspace(uri, tried, read, others, deleted, tidied)


def judge_workspace(
    uri: str,
    tried: Mapping[str, Answer],
    read: Mapping[str, Answer],
    others: Mapping[str, str],
    deleted: Mapping[str, Answer],
    tidied: Mapping[str, Answer],
) -> Iterator[Finding]:
    """What is to be said of a workspace on each node.

    Args:
        uri: of the workspace.
        tried: by node what :func:`sscm.cluster.probe.try_out` gave.
        read: by node what :func:`sscm.cluster.probe.read_of_another` gave.
        others: by node whose file that was.
        deleted: by node what :func:`sscm.cluster.probe.delete` gave.
        tidied: by node what :func:`sscm.cluster.probe.tidy` gave.
    """
    for node, answer in tried.items():
        steps = [answer, *(step[node] for step in (read, deleted, tidied) if node in step)]
        fault = next((error for step in steps if (error := _error_of(step)) is not None), None)
        if fault is not None:
            yield refused(node, fault)
            continue
        if node in read and not read[node].value["same"]:
            state = "is another" if read[node].value["there"] else "is not there"
            yield Finding(
                status="failed",
                check=CHECK,
                node=node,
                seen=f"the file that {others[node]} has just written to {uri} {state}",
                remedy="these are folders of the same name on different machines: name one that all nodes mount, or s3://",
            )
            continue
        left = tidied[node].value["left"] if node in tidied else []
        if left:
            yield Finding(
                status="warning",
                check=CHECK,
                node=node,
                seen=f"still listed after it was deleted: {', '.join(left)}",
                remedy="a store whose listings lag behind hides what others write: see its consistency settings",
            )
            continue
        yield _latency(node, answer.value)


def refused(node: str, message: str) -> Finding:
    """A finding of an error of ours, whose message says what was seen and, after a semicolon, what to do."""
    seen, _, remedy = message.partition("; ")
    if "no such file or bucket" in seen:
        remedy = "name a bucket that is there, or make it"
    return Finding(
        status="failed",
        check=CHECK,
        node=node,
        seen=seen,
        remedy=remedy or "see whether the node reaches the store at all; docs/object-storage.md",
    )


def _latency(node: str, value: Mapping[str, Any]) -> Finding:
    seen = f"write {value['write_ms']:.1f} ms, read {value['read_ms']:.1f} ms"
    if max(value["write_ms"], value["read_ms"]) <= SLOW_MS:
        return Finding(status="ok", check=CHECK, node=node, seen=seen)
    remedy = "use a store in the nodes' own region or network"
    return Finding(status="warning", check=CHECK, node=node, seen=f"{seen} for {CONTENT_BYTES} bytes", remedy=remedy)


def _error_of(answer: Answer) -> str | None:
    if answer.error is None:
        return str(answer.value["error"]) if "error" in answer.value else None
    if answer.silent:
        return (
            f"{answer.error} to a small file; a mount that hangs, or a store that keeps still: see on the node whether "
            "it answers at all"
        )
    return answer.error


def _asking(method: str, *words: Any) -> Any:
    return lambda inspector: getattr(inspector, method).remote(*words)


def _quick(workspace: Workspace, seconds: float) -> Workspace:
    """The same, whose client gives an attempt up early enough for its message to come before the deadline."""
    if urlsplit(workspace.uri).scheme not in storage.S3:
        return workspace
    options = dict(workspace.storage_options)
    options["config_kwargs"] = {
        "connect_timeout": seconds / 6,
        "read_timeout": seconds / 4,
        "retries": {"total_max_attempts": 1},
        **options.get("config_kwargs", {}),
    }
    return dataclasses.replace(workspace, storage_options=options)
