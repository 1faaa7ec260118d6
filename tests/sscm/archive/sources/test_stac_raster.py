"""Rasters in a bucket and elsewhere: settings of GDAL by those of AWS, and reading over S3."""

from __future__ import annotations

import http.server
import threading

import numpy as np
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from rasterio.transform import Affine

from sscm.archive.sources import stac_raster
from sscm.archive.sources.stac import StacSource
from sscm.archive.sources.stac_raster import gdal_path, gdal_settings, open_raster
from sscm.config import StacConfig
from sscm.errors import PairError
from sscm.workspace import Workspace
from tests.plugins.stac import add_s1, add_s2, write_catalog, write_cog


@pytest.fixture
def bucket(monkeypatch, free_port):
    """Root of a bucket on a server that speaks S3, on a free port."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port, verbose=False)
    server.start()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("images-of-tests")
    yield "s3://images-of-tests"
    s3fs.S3FileSystem().rm("images-of-tests", recursive=True)  # the process's servers share what they hold
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_pairs_from_a_bucket_are_those_of_the_disk(tmp_path, bucket, monkeypatch):
    local = write_catalog(tmp_path, add_s2(tmp_path, side=216), add_s1(tmp_path))
    options = {"key": "mine", "secret": "secret"}  # GDAL takes these, which rasterio's own settings refuse
    monkeypatch.setattr(stac_raster, "open_workspace", lambda uri: Workspace(uri, options))
    s3fs.S3FileSystem().put(f"{tmp_path}/", f"{bucket}/c/", recursive=True)
    here, there = (StacSource(StacConfig(catalog=root)) for root in (local, f"{bucket}/c/catalog.json"))
    (ref,), (remote,) = here.plan(), there.plan()
    assert remote.args["s2"]["bands"]["B02"]["href"].startswith(f"{bucket}/c/")
    (pair,), (same,) = here.read(ref), there.read(remote)
    assert same.pair_id == pair.pair_id
    for name, pixels in pair.images.items():
        assert (same.images[name] == pixels).all()
    assert [r.key for r in StacSource(StacConfig(catalog=f"{bucket}/c")).plan()] == [ref.key]  # a folder of a bucket
    remote.args["s1"][0]["bands"]["VH"]["href"] = f"{bucket}/c/gone.tif"
    with pytest.raises(PairError, match=r"gone\.tif: it cannot be read .*rights to it \(AWS_\* variables"):
        list(there.read(remote))


class _Unsteady(http.server.BaseHTTPRequestHandler):
    """Serves ranges of one file, and refuses every second request as an overloaded server does."""

    content = b""
    requests = 0

    def do_HEAD(self):
        self.answer(b"", {"Content-Length": str(len(self.content)), "Accept-Ranges": "bytes"})

    def do_GET(self):
        first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = self.content[first : last + 1]
        span = f"bytes {first}-{first + len(part) - 1}/{len(self.content)}"
        self.answer(part, {"Content-Length": str(len(part)), "Content-Range": span}, 206)

    def answer(self, body, headers, status=200):
        type(self).requests += 1
        if self.requests % 2:
            status, body, headers = 503, b"", {"Content-Length": "0"}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_server_that_fails_for_a_moment_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")  # what the environment says goes before our setting
    pixels = np.arange(300 * 300, dtype=np.uint16).reshape(300, 300)
    write_cog(tmp_path / "a.tif", pixels, "EPSG:32633", Affine(10, 0, 399_960, 0, -10, 5_300_040), 0)
    _Unsteady.content = (tmp_path / "a.tif").read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Unsteady)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with open_raster(f"http://127.0.0.1:{server.server_port}/a.tif") as file:
            assert (file.read(1) == pixels).all()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert _Unsteady.requests > 2


def test_endpoint_becomes_what_gdal_knows():
    def of(**environment):
        found = gdal_settings("s3://bucket/key.tif", environment)
        return {name: value for name, value in found.items() if name.startswith("AWS_")}

    assert of() == {}
    assert of(AWS_ENDPOINT_URL="http://127.0.0.1:9000") == {
        "AWS_S3_ENDPOINT": "127.0.0.1:9000",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }
    assert of(AWS_ENDPOINT_URL="http://other", AWS_ENDPOINT_URL_S3="https://minio.example/s3/") == {
        "AWS_S3_ENDPOINT": "minio.example/s3",
        "AWS_HTTPS": "YES",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }
    assert of(AWS_ENDPOINT_URL="https://s3.eu-west-1.amazonaws.com")["AWS_VIRTUAL_HOSTING"] == "TRUE"
    assert "AWS_S3_ENDPOINT" not in of(AWS_ENDPOINT_URL="http://a", AWS_S3_ENDPOINT="b")
    assert "AWS_S3_ENDPOINT" not in gdal_settings("https://host/key.tif", {"AWS_ENDPOINT_URL": "http://a"})


def test_storage_options_become_what_gdal_knows(monkeypatch):
    options = {"key": "mine", "secret": "secret", "requester_pays": True, "endpoint_url": "http://minio:9000"}
    monkeypatch.setattr(stac_raster, "open_workspace", lambda uri: Workspace(uri, options))
    found = gdal_settings("s3://bucket/key.tif", {"AWS_ACCESS_KEY_ID": "another", "AWS_ENDPOINT_URL": "http://other"})
    assert {name: value for name, value in found.items() if name.startswith("AWS_")} == {
        "AWS_S3_ENDPOINT": "minio:9000",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_REQUEST_PAYER": "requester",
        "AWS_ACCESS_KEY_ID": "mine",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    options |= {"anon": True}
    assert gdal_settings("s3://bucket/key.tif", {})["AWS_NO_SIGN_REQUEST"] == "YES"


def test_paths_of_gdal(tmp_path):
    assert gdal_path("s3://bucket/a/b.tif") == "/vsis3/bucket/a/b.tif"
    assert gdal_path("https://host/b.tif?sig=1") == "/vsicurl/https://host/b.tif?sig=1"
    assert gdal_path(f"file://{tmp_path}/b.tif") == f"{tmp_path}/b.tif"
    with pytest.raises(PairError, match="scheme 'ftp'"):
        gdal_path("ftp://host/b.tif")


def test_a_file_that_names_others_is_not_opened(tmp_path):
    path = tmp_path / "other.vrt"
    path.write_text('<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    with pytest.raises(PairError, match="it cannot be read"), open_raster(str(path)):
        pass
