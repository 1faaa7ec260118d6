"""The encoders of an index generation: its model, adapted to its archive as the indexed images were.

What adapts them is a file named by its content, ``index/adaptations/<name>.safetensors``, beside the segments; the
generation's manifest has its checksum.
"""

from __future__ import annotations

import hashlib

from sscm.errors import GenerationError, IntegrityError, WorkspaceError
from sscm.index.generation import Generation
from sscm.model.adaptation import Adaptation, adapt
from sscm.model.bundle import Bundle, load_bundle
from sscm.workspace import INDEX, Workspace


def load_encoders(workspace: Workspace, generation: Generation) -> Bundle:
    """The bundle that embeds queries as the images of a generation were embedded.

    Args:
        workspace: where ``models/`` and ``index/`` are.
        generation: which generation; one without adaptation gives the bundle as it was trained.

    Raises:
        GenerationError: the model of that name is another one now.
        BundleError: there is no such model.
        IntegrityError: the adaptation's file, or the model's, is missing or altered.
    """
    bundle = load_model(workspace, generation)
    adaptation = read_adaptation(workspace, generation)
    return bundle if adaptation is None else adapt(bundle, adaptation)


def load_model(workspace: Workspace, generation: Generation) -> Bundle:
    """The bundle of a generation as it was trained, without what adapts it.

    Raises:
        GenerationError: the model of that name is another one now; both are named.
        BundleError: there is no such model.
        IntegrityError: its weights are altered.
    """
    bundle = load_bundle(workspace, generation.bundle)
    if bundle.fingerprint != generation.fingerprint:
        raise GenerationError(
            f"model {bundle.name} has fingerprint {bundle.fingerprint[:12]}, index generation {generation.number} was "
            f"made with {generation.fingerprint[:12]}; build the index anew with `sscm index`"
        )
    return bundle


def read_adaptation(workspace: Workspace, generation: Generation) -> Adaptation | None:
    """What adapts a generation's encoders; None where they are as they were trained.

    Raises:
        IntegrityError: its file is missing or altered; it is named.
    """
    info = generation.adaptation
    if info is None:
        return None
    where = workspace.uri_of(INDEX, *info.file.split("/"))
    remedy = "restore it, or run `sscm index` again"
    try:
        data = workspace.read_bytes(INDEX, *info.file.split("/"))
    except WorkspaceError as error:
        if workspace.exists(INDEX, *info.file.split("/")):
            raise
        raise IntegrityError(f"{where} is missing; {remedy}") from error
    if len(data) != info.bytes or hashlib.sha256(data).hexdigest() != info.sha256:
        raise IntegrityError(
            f"{where} was altered: {len(data)} bytes that are not the {info.bytes} bytes written; {remedy}"
        )
    return Adaptation.from_bytes(data, where)
