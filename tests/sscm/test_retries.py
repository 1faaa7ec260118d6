"""Which faults pass, how often and how long they are sat out."""

import errno

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error
from urllib3.exceptions import IncompleteRead

from sscm import retries
from sscm.retries import TruncatedError, is_passing, is_refusal, retrying, status_of


def answer(code, status):
    """What s3fs raises for an answer of a store."""
    response = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(response, "GetObject"))


@pytest.mark.parametrize(
    "error",
    [
        answer("SlowDown", 503),
        answer("503", 503),
        answer("TooManyRequests", 429),
        answer("InternalError", 500),
        answer("InternalError", 200),  # within an answer that began well
        answer("RequestTimeout", 400),
        answer("NoSuchUpload", 404),
        answer("ConditionalRequestConflict", 409),
        ReadTimeoutError(endpoint_url="u"),
        ConnectTimeoutError(endpoint_url="u"),
        EndpointConnectionError(endpoint_url="u"),
        FSTimeoutError(),
        ClientPayloadError(),
        ClientConnectionError(),
        IncompleteRead(1, 2),
        TruncatedError(),
        ConnectionResetError(),
        OSError(errno.EHOSTUNREACH, "no route"),
    ],
    ids=repr,
)
def test_passing(error):
    assert is_passing(error) and not is_refusal(error)


@pytest.mark.parametrize(
    "error",
    [
        answer("NoSuchKey", 404),
        answer("PreconditionFailed", 412),
        answer("InvalidBucketName", 400),
        answer("NotImplemented", 501),
        SSLError(endpoint_url="u", error="certificate"),
        NoCredentialsError(),
        PermissionError(errno.EACCES, "of this machine"),
        OSError(errno.ENOSPC, "full"),
        ValueError(),
    ],
    ids=repr,
)
def test_final(error):
    assert not is_passing(error) and not is_refusal(error)


def test_refusals():
    for error in (answer("AccessDenied", 403), answer("403", 403), answer("InvalidAccessKeyId", 403)):
        assert is_refusal(error) and not is_passing(error)
        assert status_of(error) == 403


def test_waits_grow_to_a_limit_and_end_in_time(monkeypatch):
    now, waits, calls = [0.0], [], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(retries.time, "sleep", sleep)
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])

    def away():
        calls.append(now[0])
        now[0] += 0.5  # an attempt takes time, too
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        retrying(away)
    assert 60 < now[0] <= retries.PATIENCE + 0.5 and calls[-1] <= retries.PATIENCE
    assert 8 < len(calls) < retries.ATTEMPTS
    for number, wait in enumerate(waits):
        full = min(retries.FIRST_WAIT * 2**number, retries.LONGEST_WAIT)
        assert full / 2 <= wait <= full


def test_refusals_are_few_between_other_faults():
    errors = [answer("AccessDenied", 403), ConnectionResetError(), answer("403", 403), answer("403", 403)]
    calls = iter(errors)

    def refuse():
        raise next(calls)

    with pytest.raises(PermissionError):
        retrying(refuse, first_wait=0.001)
    assert next(calls, None) is None


def test_retrying_gives_up_after_its_attempts_and_not_on_other_faults():
    calls = []

    def refuse():
        calls.append(1)
        raise ConnectionResetError("again")

    with pytest.raises(ConnectionResetError):
        retrying(refuse, attempts=3, first_wait=0.001)
    assert len(calls) == 3
    calls.clear()

    def wrong():
        calls.append(1)
        raise FileNotFoundError("never")

    with pytest.raises(FileNotFoundError):
        retrying(wrong, attempts=3, first_wait=0.001)
    assert len(calls) == 1


def test_retrying_returns_what_a_later_attempt_gives():
    answers = iter([ConnectionResetError(), "well"])

    def flaky():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retrying(flaky, first_wait=0.001) == "well"
