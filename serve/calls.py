"""Calls of deployments: once more where a replica died, not for ever, and with what went wrong in our own words."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve.api import HttpProblem
from serve.channel import Busy
from sscm.errors import SscmError

ATTEMPTS = 2
"""Calls of a deployment whose replica dies, in all."""


class Lost(Exception):
    """A deployment has no replica that answers."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why

    def problem(self, what: str) -> HttpProblem:
        """The answer to a request that cannot be answered without it; ``what`` is named."""
        return HttpProblem(self.status, f"no {what} answers: {self.why}; try again", {"Retry-After": "1"})


async def within(seconds: float, waiting: Coroutine[Any, Any, Any]) -> Any:
    """Wait for a call, but not longer than some seconds; raises :class:`Lost` then."""
    try:
        return await asyncio.wait_for(waiting, seconds)
    except TimeoutError as error:
        raise Lost(504, f"no answer within {seconds:g} s") from error


async def call(handle: Any, method: str, *args: Any) -> Any:
    """Call a method of a deployment; once more where the replica died, since nothing here changes anything.

    Raises:
        SscmError: what the method raised, without Ray's wrapping.
        HttpProblem: 503, too many calls are waiting.
        Lost: no replica answers.
    """
    for attempt in range(ATTEMPTS):
        try:
            return await getattr(handle, method).remote(*args)
        except RayTaskError as error:
            if isinstance(error.cause, SscmError):
                raise error.cause from None
            if isinstance(error.cause, Busy):
                raise HttpProblem(503, "too many requests are waiting; try again", {"Retry-After": "1"}) from error
            raise
        except BackPressureError as error:
            raise HttpProblem(503, "too many requests are waiting; try again", {"Retry-After": "1"}) from error
        except (RayActorError, DeploymentUnavailableError) as error:
            if attempt == ATTEMPTS - 1:
                raise Lost(503, "its replica died") from error
    raise Lost(503, "never asked")
