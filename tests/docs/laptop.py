"""The commands of the pages that a laptop runs, in an order that makes sense, on one small workspace and one Ray.

They run as the pages have them, but for what :class:`Step` says: fewer pairs and epochs, and a port that is free.
Commands of ``sscm`` run in this process, by the function that the program's entry point calls; the service is a program
of its own; all else runs in bash.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import rasterio
import ray
from affine import Affine

from serve.guard import Rules
from sscm.archive.manifest import read_manifest
from sscm.cli import main
from sscm.workspace import open_workspace
from tests.docs.commands import ROOT, blocks
from tests.plugins.bigearthnet import write_v2
from tests.plugins.service import serving

SMALL = "--backbone test_resnet --image-size 32 --batch-size 16 --epochs 1 --dimension 16"
SERVICE = "http://127.0.0.1:8000"
BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, run.

    Args:
        page: whose command it is.
        text: the command, as the page has it.
        added: arguments that make it small; the last one given counts.
        put: what is put in the place of what; of placeholders and paths.
        says: a regular expression that its output must have in it.
        before: makes what it needs.
        then: looks at what it did.
    """

    page: str
    text: str
    added: str = ""
    put: tuple[tuple[str, str], ...] = ()
    says: str = ""
    before: Callable[[Laptop], None] | None = None
    then: Callable[[Laptop], None] | None = None

    def __str__(self) -> str:
        return f"{self.page.removeprefix('docs/')}: {self.text.splitlines()[0][:70]}"


class Laptop:
    """A folder, what is in it, and a service that may run.

    Args:
        folder: working directory of all commands.
        port: where services listen.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.done: list[Step] = []
        self.output = ""
        self.names: dict[str, str] = {}
        self.at_last = contextlib.ExitStack()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
            "no_proxy": "*",
        }
        self._service: subprocess.Popen[str] | None = None

    def run(self, step: Step) -> None:
        """Run a step, after those before it that have not run yet.

        Raises:
            AssertionError: it, or one before it, failed.
        """
        for due in STEPS[len(self.done) : STEPS.index(step) + 1]:
            self.done.append(due)
            if due.before:
                due.before(self)
            self._run(due)
            assert re.search(due.says, self.output), f"{due}: expected {due.says!r} in\n{self.output}"
            if due.then:
                due.then(self)

    def _run(self, step: Step) -> None:
        text = f"{step.text} {step.added}".strip()
        for old, new in (*step.put, *self.names.items(), (SERVICE, self.url), ("/data/", f"{self.folder}/data/")):
            text = text.replace(old, new)
        words = shlex.split(text)
        if words[:2] == ["sscm", "serve"] and "--write" not in words and "reload" not in words:
            self.serve(words[2:])
        elif words[0] == "sscm":
            if words[1] == "search":
                words += ["--url", self.url]
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                code = main(words[1:])
            self.output = output.getvalue()
            assert code == 0, f"{step}: exit code {code}\n{self.output}"
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=ROOT if "benchmarks/" in text or text.startswith("source ") else self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.output = done.stdout + done.stderr
            assert done.returncode == 0, f"{step}: exit code {done.returncode}\n{self.output}"

    def serve(self, arguments: list[str]) -> None:
        """Start a service, in the place of one that runs; it answers when this returns."""
        self.stop()
        log = self.folder / "service.log"
        with log.open("w") as output:
            self._service = subprocess.Popen(
                [str(BIN / "sscm"), "serve", *arguments, "--port", str(self.port), "--watch-s", "0.5"],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
                text=True,
            )
        end = time.monotonic() + 90
        while "Ctrl-C stops it" not in log.read_text():
            assert self._service.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        self.output = log.read_text()

    def stop(self) -> None:
        """End what runs."""
        self.at_last.close()
        if self._service is not None:
            self._service.terminate()
            try:
                self._service.wait(30)
            except subprocess.TimeoutExpired:
                self._service.kill()
                self._service.wait(30)
            self._service = None


def images(laptop: Laptop) -> None:
    """Images of the first pair of the archive, in the files that the pages name."""
    workspace = open_workspace(str(laptop.folder / "workspace"))
    manifest = read_manifest(workspace)
    table = pq.read_table(workspace.path_of("archive", *manifest.shards[0].file.split("/")))
    side = manifest.group("s1").shape[-1]
    bands: dict[str, np.ndarray] = {}
    for modality in manifest.modalities:
        for group in modality.groups:
            pixels = np.frombuffer(table[group.name][0].as_py(), group.numpy_dtype).reshape(group.shape)
            for name, plane in zip(group.band_names, pixels, strict=True):
                bands[name] = np.kron(plane, np.ones([side // len(plane)] * 2, plane.dtype))
    radar = np.stack([bands["VV"], bands["VH"]])
    (laptop.folder / "demo").mkdir()
    np.save(laptop.folder / "demo/query_s1.npy", radar)
    np.save(laptop.folder / "query.npy", radar)
    vector = np.zeros(16, np.float32)
    vector[0] = 1
    np.save(laptop.folder / "v.npy", vector)
    for name in ("VV", "VH"):
        for file in (f"{name}.tif", f"p_{name}.tif"):
            write_tiff(laptop.folder / file, bands[name][None], [name])
    optical = [name for name in bands if name not in ("VV", "VH")]
    write_tiff(laptop.folder / "stack.tif", np.stack([bands[name] for name in optical]), optical)


def write_tiff(path: Path, pixels: np.ndarray, names: list[str]) -> None:
    """A GeoTIFF of 10 m pixels whose bands are described."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    about = {"count": count, "height": height, "width": width, "dtype": pixels.dtype, "driver": "GTiff"}
    with rasterio.open(path, "w", crs="EPSG:32634", transform=Affine(10, 0, 5e5, 0, -10, 5e6), **about) as file:
        file.write(pixels)
        file.descriptions = names


def table_of_files(laptop: Laptop) -> None:
    """The table and the declaration that the page shows, and the images that the table names."""
    text = {kind: body for kind, _, body in blocks(ROOT / "docs/own-data.md") if kind in ("text", "toml")}
    (laptop.folder / "pairs.csv").write_text(text["text"])
    (laptop.folder / "bands.toml").write_text(text["toml"])
    rng = np.random.default_rng(0)
    write_tiff(laptop.folder / "radar/p0001.tif", rng.normal(-12, 3, (2, 256, 256)).astype("float32"), ["VV", "VH"])
    optical = rng.integers(1, 4000, (4, 256, 256)).astype("uint16")
    write_tiff(laptop.folder / "optical/p0001.tif", optical, ["B02", "B03", "B04", "B08"])


def bigearthnet(laptop: Laptop) -> None:
    """A version 2 folder of a few simulated pairs, and a table of the cloudy ones."""
    root = laptop.folder / "data/BigEarthNet"
    write_v2(root, 12)
    table = pq.read_table(root / "metadata.parquet")
    pq.write_table(table.slice(0, 9), root / "metadata.parquet")
    pq.write_table(table.slice(9), root / "metadata_for_patches_with_snow_cloud_or_shadow.parquet")


def key_of_ann(laptop: Laptop) -> None:
    """The key that was printed is the one that the page's ``$KEY`` stands for."""
    found = re.search(r"^sscm_\S+", laptop.output, re.MULTILINE)
    assert found, laptop.output
    laptop.environment["KEY"] = found[0]


def with_keys(laptop: Laptop) -> None:
    """A service in this process that wants keys: a second one on Ray would take half a minute."""
    workspace = open_workspace(str(laptop.folder / "workspace"))
    rules = Rules(keys=str(laptop.folder / "workspace/keys.json"))
    laptop.names["KEYED"] = laptop.at_last.enter_context(serving(workspace, rules=rules)).url


def refused_without(laptop: Laptop) -> None:
    """Without the key there is no answer."""
    assert httpx.get(f"{laptop.names['KEYED']}/v1/index", timeout=10).status_code == 401


def generation_is(number: int, items: int) -> Callable[[Laptop], None]:
    """Wait until the service answers from a generation of so many items."""

    def wait(laptop: Laptop) -> None:
        end, told = time.monotonic() + 30, {}
        while time.monotonic() < end:
            told = httpx.get(f"{laptop.url}/v1/index", timeout=10).json()
            if (told["generation"], told["items"]) == (number, items):
                return
            time.sleep(0.2)
        raise AssertionError(f"{told} is served; expected generation {number} of {items} items")

    return wait


def found_items(laptop: Laptop) -> None:
    """What was printed last is a FeatureCollection with features."""
    answer = json.loads(laptop.output)
    assert answer.get("type") == "FeatureCollection", laptop.output
    assert answer["features"], laptop.output


def _of(page: str) -> Callable[..., Step]:
    return lambda text, **options: Step(page=page, text=text, **options)


tutorial, operations = _of("docs/tutorial.md"), _of("docs/operations.md")
client, uploads = _of("docs/client.md"), _of("docs/uploads.md")
search, access = _of("docs/search.md"), _of("docs/access.md")
index, training = _of("docs/keeping-an-index.md"), _of("docs/training.md")
own_data, of_bigearthnet = _of("docs/own-data.md"), _of("docs/bigearthnet.md")
export, cost = _of("docs/export.md"), _of("docs/operations.md")

STEPS: tuple[Step, ...] = (
    # An archive, a model, an index, a service; asked in every way that the pages show.
    tutorial("source .venv/bin/activate"),
    tutorial("sscm ingest synthetic --pairs 2000", added="--pairs 96 --pairs-per-shard 32", says="archive of 96 pairs"),
    tutorial(
        "sscm train --name first --backbone test_resnet --image-size 64 --batch-size 128 --lr 0.002",
        added=SMALL,
        says="model first, 1 epochs",
    ),
    tutorial("sscm index", says="index generation 1: 96 rows by model first"),
    tutorial("sscm evaluate", says=r"s1→s2 trained[^·]*report: .*workspace/report\.html"),
    tutorial("sscm serve", says="serving 96 items"),
    tutorial("sscm search --id sim_000005 --modality s1 --target s2", says="sim_0000"),
    tutorial(
        """curl -s http://127.0.0.1:8000/v1/search -H 'Content-Type: application/json' """
        """-d '{"id": "sim_000005", "modality": "s1", "target": "s2", "limit": 3}'""",
        then=found_items,
    ),
    client("sscm search VV.tif VH.tif --modality s1 --target s2", before=images, says="sim_0000"),
    client("sscm search --id sim_000005 --modality s1 --target s1 --target s2", says="sim_0000"),
    client(
        "sscm search --like sim_000005 --like sim_000007 --unlike sim_000009 --modality s2 --target s2", says="sim_0000"
    ),
    client("sscm search --vector v.npy --modality s1 --target s2 --format ids", says=r"(?m)^sim_0000\d\d$"),
    client(
        "sscm search query.npy --modality s1 --target s2 --bbox -9 50 10 60 --labels Pastures "
        """--filter "cloud_share < 0.1" --min-score 0.5 --limit 50 --save found""",
        put=(("-9 50 10 60", "-180 -90 180 90"), ("--min-score 0.5", "--min-score -1")),
        then=lambda laptop: json.loads((laptop.folder / "found/answers.geojson").read_text()),
    ),
    search(
        """curl -s http://127.0.0.1:8000/v1/search -H 'Content-Type: application/json' -d '{
  "id": "sim_000005", "modality": "s1", "target": "s2", "limit": 5,
  "bbox": [-9, 50, 10, 60],
  "datetime": "2020-01-01T00:00:00Z/..",
  "filter": "season = '\\''autumn'\\'' AND cloud_share < 0.1"
}'""",
        says='"type": ?"FeatureCollection"',  # so few pairs may have none that all of it holds for
    ),
    search(
        "curl -s http://127.0.0.1:8000/v1/search/image -F files=@demo/query_s1.npy -F modality=s1 -F target=s2 "
        """-F filters='{"bbox": [-9, 50, 10, 60], "filter": "season = '\\''autumn'\\''"}'""",
        says='"type": ?"FeatureCollection"',
    ),
    uploads(
        "curl -s http://127.0.0.1:8000/v1/search/image -F modality=s2 -F target=s1 -F files=@stack.tif",
        then=found_items,
    ),
    uploads(
        "curl -s http://127.0.0.1:8000/v1/search/image -F modality=s1 -F target=s2 "
        "-F files=@p_VV.tif -F files=@p_VH.tif",
        then=found_items,
    ),
    # The archive grows, and the service follows; and back to the generation before.
    tutorial("sscm ingest synthetic --pairs 2100 --add", added="--pairs 112", says="archive of 112 pairs"),
    tutorial("sscm index append", says="index generation 2: 112 rows", then=generation_is(2, 112)),
    tutorial("sscm index list", says="112"),
    operations("curl -s http://127.0.0.1:8000/readyz", says='"ready": ?true'),
    operations("curl -s http://127.0.0.1:8000/v1/index", says='"generation": ?2'),
    operations("sscm index list", says="112"),
    operations(
        "sscm index restore --generation 1",
        says="index generation 3: the 96 rows of generation 1",
        then=generation_is(3, 96),
    ),
    operations("sscm index verify", says="96"),
    # A copy.
    operations(
        "mkdir backup && cp workspace/archive/manifest.json workspace/models/LATEST.json "
        "workspace/index/CURRENT backup/"
    ),
    operations("cp -r workspace/archive workspace/models workspace/index backup/"),
    operations(
        "mv backup/manifest.json backup/archive/ && mv backup/LATEST.json backup/models/ "
        "&& mv backup/CURRENT backup/index/"
    ),
    operations("sscm index verify --workspace backup", says="96"),
    # Other models; what is deleted and collected.
    training(
        "sscm train export --run NAME",
        put=(("NAME", "first"),),
        says="model first-checkpoint_",
        then=lambda laptop: laptop.names.update(CHECKPOINT=re.findall(r"first-checkpoint_[\w.-]+", laptop.output)[0]),
    ),
    training(
        "sscm index --model NAME-checkpoint_…",
        put=(("NAME-checkpoint_…", "CHECKPOINT"),),
        says="index generation 4: 112 rows by model first-checkpoint_",
        then=generation_is(4, 112),
    ),
    operations(
        "sscm refresh synthetic --pairs 2200",
        added="--pairs 128",
        says=r"(?s)s1→s2.*index generation 5: 16 new pairs, 128 rows",
        then=generation_is(5, 128),
    ),
    index(
        """sscm index delete --filter "season = 'winter' AND cloud_share > 0.5\"""",
        put=(("season = 'winter' AND cloud_share > 0.5", "id < 'sim_000003'"),),
        says="index generation 6: 3 rows deleted, 125 left",
    ),
    index("sscm index compact --deleted 0", says="3 deleted rows are out", then=generation_is(7, 125)),
    index("sscm index gc --keep 1 --min-age 0", says="are gone"),
    export("sscm index export embeddings.parquet", says="embeddings.parquet"),
    # Keys.
    access("sscm keys add ann --role read", then=key_of_ann),
    access("sscm keys add ops --role admin"),
    access("sscm keys list", says="(?s)ann.*ops"),
    access(
        'curl -s http://host:8000/v1/index -H "Authorization: Bearer $KEY"',
        before=with_keys,
        put=(("http://host:8000", "KEYED"),),
        says='"generation"',
        then=refused_without,
    ),
    access("sscm keys remove ann", says="gone"),
    # Other sources.
    own_data(
        "sscm ingest pairs --table pairs.csv --modalities bands.toml --tile 128",
        before=table_of_files,
        added="--workspace of-a-table",
        says="archive of 4 pairs",
    ),
    of_bigearthnet(
        "sscm ingest bigearthnet --root /data/BigEarthNet --workspace /data/ben",
        before=bigearthnet,
        says="archive of 9 pairs",
    ),
    of_bigearthnet(
        "sscm ingest bigearthnet --root /data/BigEarthNet --workspace /data/ben --add "
        "--metadata /data/BigEarthNet/metadata_for_patches_with_snow_cloud_or_shadow.parquet",
        says="archive of 12 pairs",
    ),
    cost("python benchmarks/cost.py --gpu-hour 2.50 --serve-node-month 400", says="serve 500 million pairs"),
)
