"""An object store for tests: one in memory that speaks S3, or the one that ``SSCM_TEST_S3_ENDPOINT`` names.

A store that is named is used with the credentials of the ``AWS_*`` variables; tests make buckets of their own in it.
"""

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from sscm.storage import filesystem
from sscm.workspace import Workspace, open_workspace
from tests.plugins.fault_proxy import FaultProxy

ENDPOINT = "SSCM_TEST_S3_ENDPOINT"
SECRET = "a-secret-that-is-nowhere"
QUICK = {"read_timeout": 0.4, "retries": {"total_max_attempts": 1}}
"""Silence is soon a fault, and every retry is ours."""


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """URL of the store."""
    if given := os.environ.get(ENDPOINT):
        yield given
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def behind(store_url, store_credentials) -> Any:
    """The store's file system, past any proxy."""
    return filesystem("s3", {"endpoint_url": store_url, **store_credentials})


@pytest.fixture
def proxy(store_url) -> Iterator[FaultProxy]:
    """A proxy in front of the store, which can make anything go wrong."""
    with FaultProxy(store_url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def store_credentials() -> dict[str, str]:
    """``key`` and ``secret`` that the store takes."""
    if os.environ.get(ENDPOINT):
        return {"key": os.environ["AWS_ACCESS_KEY_ID"], "secret": os.environ["AWS_SECRET_ACCESS_KEY"]}
    return {"key": "testing", "secret": SECRET}


@pytest.fixture
def remote(behind, proxy, store_credentials, monkeypatch) -> Iterator[Workspace]:
    """A workspace in a bucket of its own, reached through the proxy by a client that is quick to give up."""
    bucket = f"sscm-{uuid.uuid4().hex[:12]}"
    behind.mkdir(bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store_credentials["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store_credentials["secret"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield open_workspace(f"s3://{bucket}/w", {"config_kwargs": QUICK})
    behind.rm(bucket, recursive=True)
