"""What a file system raises, as an error that says what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from sscm.errors import WorkspaceError
from sscm.retries import is_passing, is_refusal, status_of

_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "azure", "s3fs")


@contextlib.contextmanager
def storage_errors(verb: str, where: str) -> Iterator[None]:
    """Turn what a file system raises into a :class:`WorkspaceError` that names the remedy.

    Args:
        verb: what was being done: read, write, look at, list, delete.
        where: path or URI.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise WorkspaceError(f"cannot {verb} {where}: there is no such file or bucket") from error
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        raise WorkspaceError(f"cannot {verb} {where}: {told}") from error


def _told(error: Exception) -> str | None:
    """What was wrong and what would be right; None where the error is not one of storage."""
    is_storage = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS
    if not is_storage:
        return None
    text = str(error).strip() or type(error).__name__
    if is_refusal(error):
        return (
            f"the store refuses ({text}); check that the credentials in use (AWS_* variables or storage options) may "
            "read, write and list there, or ask a public bucket anonymously; see docs/object-storage.md"
        )
    if isinstance(error, (PermissionError, NotADirectoryError, IsADirectoryError)):
        return f"{error.strerror or error}; check the rights to it, or choose another workspace"
    if is_passing(error):
        return (
            f"the store did not answer, or not well, in many attempts (the last: {text}); check that it is up and that "
            "endpoint and region are right (AWS_ENDPOINT_URL, AWS_REGION or storage options), then run the same "
            "command again: it goes on where it stopped"
        )
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "the disk is full; free some space, then run the same command again: it goes on where it stopped"
        if error.errno == errno.EROFS:
            return "the file system is read-only; choose another workspace"
        if status_of(error) == 412:  # every range is read on the condition that the object is the one opened
            return "it was replaced while it was read; run the same command again"
        return text
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
        return (
            f"{text}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on every machine, or ask a public bucket "
            'anonymously (SSCM_STORAGE_OPTIONS=\'{"s3": {"anon": true}}\'); see docs/object-storage.md'
        )
    return f"{text}; check endpoint, region and credentials (AWS_* variables or storage options)"
