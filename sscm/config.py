"""Every setting and every default, on one screen, each with its reason.

The command line is made from these classes: a field is a flag, and the text below it is the flag's help.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sscm.errors import ConfigError

WORKSPACE = "workspace"
"""Where a workspace lies if nothing else is said: a folder of the working directory."""

Role = Literal["read", "admin"]
"""What an API key may do: ``read`` asks, ``admin`` may also change what is served."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """A simulated archive of Sentinel-1 and Sentinel-2 pairs: nothing in it was observed."""

    pairs: int = 2000
    """Pairs to simulate."""
    seed: int = 0
    """The same bytes for the same seed and version."""
    pixels: int = 120
    """Rows and columns at 10 m, a multiple of 6; 120 is a BigEarthNet patch of 1.2 km."""
    validation: float = 0.1
    """Share of pairs in the validation split."""
    test: float = 0.2
    """Share of pairs in the test split; large enough that a demo's figures are steady."""
    unseen_test: bool = False
    """Draw the test split from kinds of country and a season that the other splits have none of."""

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"seed = {self.seed}; expected 0 or more")
        _require(self.pairs >= 1, f"pairs = {self.pairs}; expected at least 1")
        _require(
            self.pixels >= 24 and self.pixels % 6 == 0, f"pixels = {self.pixels}; expected a multiple of 6, from 24"
        )
        _require(
            min(self.validation, self.test) >= 0 and self.validation + self.test < 1,
            f"validation = {self.validation}, test = {self.test}; expected shares that leave some for training",
        )


@dataclass(frozen=True, kw_only=True)
class BigEarthNetConfig:
    """BigEarthNet folders, version 1 or 2, told apart by what lies in them."""

    root: str
    """Folder or URI that holds the Sentinel-1 and Sentinel-2 folders (and, for version 2, metadata.parquet)."""
    metadata: str | None = None
    """Version 2: metadata.parquet, where it is not in the root."""
    split_file: str | None = None
    """Version 1: a CSV of patch name and split, or a folder with the lists train, val and test; only listed patches are
    taken. Without one, blocks of 10 × 10 patches are dealt to the splits by a hash of their place."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """A table of image files: one row a pair, one column a band group."""

    table: str
    """CSV or Parquet. Columns: pair_id, one a band group with the file's path, and, if known, split, labels,
    <modality>_datetime; every other column becomes a property."""
    modalities: str
    """TOML file that declares the modalities: bands, dtype, unit, no-data."""
    root: str | None = None
    """Folder that relative paths in the table start from; the table's own folder if not given."""
    tile: int | None = None
    """Cut every image into tiles of this many pixels (of its finest band group); edges that fill none are dropped."""

    def __post_init__(self) -> None:
        _require(self.tile is None or self.tile >= 8, f"tile = {self.tile}; expected at least 8 pixels")


@dataclass(frozen=True, kw_only=True)
class StacConfig:
    """A STAC catalogue of Sentinel-1 and Sentinel-2 images, paired and cut into patches."""

    catalog: str
    """Catalogue, collection, item or ItemCollection (JSON), or a folder of items: a path or a URI (s3://, https://)."""
    pixels: int = 120
    """Rows and columns of a patch at 10 m, a multiple of 6; 120 is a BigEarthNet patch of 1.2 km."""
    max_days: float = 3.0
    """Most days between the two images of a pair: at most places each satellite comes by every few days."""
    max_nodata: float = 0.0
    """Share of a patch's pixels that may have no data: Sentinel-2 keeps 0 there, Sentinel-1 gets the band's median."""
    s1_scale: Literal["db", "linear"] | None = None
    """What the Sentinel-1 files hold, whatever they say; by default by the unit that items or files tell."""

    def __post_init__(self) -> None:
        _require(
            self.pixels >= 24 and self.pixels % 6 == 0, f"pixels = {self.pixels}; expected a multiple of 6, from 24"
        )
        _require(self.max_days >= 0, f"max_days = {self.max_days}; expected 0 or more")
        _require(0 <= self.max_nodata < 1, f"max_nodata = {self.max_nodata}; expected a share from 0, below 1")


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """How an archive is written."""

    workspace: str = WORKSPACE
    """Where the archive goes: a folder or a URI."""
    pairs_per_shard: int | None = None
    """Pairs in a shard file; by default as many as make about 192 MB, from 512 to 4096."""
    pairs_per_row_group: int = 64
    """Pairs in a Parquet row group: the least that a reader fetches."""
    codec: Literal["none", "zstd"] = "none"
    """How pixels are stored: as they are, read fastest from memory and local disks; or smaller by a fifth, which pays
    where less than 250 MB a second come from the storage for each core that reads."""
    max_bad: float = 0.01
    """Share of unusable pairs at which ingest gives up: 1 % is a few broken downloads, more is a wrong setting."""
    shuffle_seed: int = 0
    """Order in which pairs are mixed over shards, so that every shard is a sample of the whole."""
    add: bool = False
    """Add the pairs that the archive of the workspace does not hold yet, known by their ids; the rest of it stays."""
    replace: bool = False
    """Put the new archive in the place of another one in the same workspace."""

    def __post_init__(self) -> None:
        _require(not (self.add and self.replace), "add and replace exclude one another: expected one of them")
        _require(
            self.pairs_per_shard is None or self.pairs_per_shard >= 1,
            f"pairs_per_shard = {self.pairs_per_shard}; expected at least 1",
        )
        _require(
            self.pairs_per_row_group >= 1, f"pairs_per_row_group = {self.pairs_per_row_group}; expected at least 1"
        )
        _require(0 <= self.max_bad <= 1, f"max_bad = {self.max_bad}; expected a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One encoder a modality: a timm backbone and a projection head."""

    backbone: str = "resnet18"
    """Any name that timm knows."""
    dimension: int = 128
    """Length of an embedding: the width of the published settings."""
    image_size: int | None = None
    """Pixels to which every band group is resampled on the device; by default the finest group's own."""
    weights: str | None = None
    """A local safetensors file of backbone weights to start from; none is downloaded. Its metadata name its bands
    (bands: B02,B03,B04); three channels without a word are red, green and blue."""
    norm: Literal["batch", "group"] = "batch"
    """Batch norm, which carries statistics of the training images; or group norm, which has none, in backbones of the
    ResNet family."""

    def __post_init__(self) -> None:
        _require(self.dimension >= 2, f"dimension = {self.dimension}; expected at least 2")
        _require(
            self.image_size is None or self.image_size >= 16, f"image_size = {self.image_size}; expected at least 16"
        )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the joint objective, L = w_mim·L_MIM + w_mde·L_MDE + w_isp·L_ISP."""

    kind: Literal["joint", "barlow", "vicreg"] = "joint"
    """The joint objective, or, to compare it with, Barlow Twins or VICReg across modalities, weighted as published."""
    w_mim: float = 1.0
    """Mutual information maximisation: the loss that tells places apart."""
    w_mde: float = 0.1
    """Modality discrepancy elimination."""
    w_isp: float = 0.1
    """Intra-modal similarity preservation."""
    temperature: float = 0.1
    """Of NT-Xent; Müller's published setting."""
    isp_warmup: float = 0.3
    """Share of the training before neighbours count: those of an untrained encoder mean nothing."""

    def __post_init__(self) -> None:
        _require(
            min(self.w_mim, self.w_mde, self.w_isp) >= 0,
            "weights of the losses: w_mim, w_mde, w_isp; expected none below 0",
        )
        _require(
            self.w_mim > 0 or self.kind != "joint",
            "w_mim = 0; set it above 0: nothing else keeps the embeddings from collapsing",
        )
        _require(self.temperature > 0, f"temperature = {self.temperature}; expected more than 0")
        _require(0 <= self.isp_warmup <= 1, f"isp_warmup = {self.isp_warmup}; expected a share from 0 to 1")


StreamBy = Literal["auto", "workers", "ray-data"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How encoders are trained."""

    workspace: str = WORKSPACE
    """Where the archive is, and where the run and the model bundle go."""
    name: str | None = None
    """Name of the run and of the model bundle; by default one made of the time."""
    resume: bool = False
    """Go on with the run of that name from its last checkpoint; without it, a name in use is an error."""
    epochs: int = 30
    """Passes over the training split."""
    batch_size: int = 256
    """Pairs in the global batch, whatever the number of workers."""
    micro_batch: int | None = None
    """Pairs of a worker in memory at a time: a batch of thousands fits small memory for one more forward pass, and the
    statistics of batch norm become those of so many pairs. By default all."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Of AdamW; CSMAE's published setting."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises; then it falls by a cosine to zero."""
    augment: bool = True
    """Flip and turn both images of a pair alike, and crop them where --crop is below 1."""
    crop: float = 1.0
    """Least share of the area that a crop keeps; 1 leaves images whole. Crops of 0.6 find the very place more often and
    its kind of land cover less."""
    bfloat16: bool | None = None
    """Forward and backward in bfloat16; by default on GPUs only. Processors with AVX-512 BF16 or AMX gain by it too."""
    workers: int = 1
    """Ray Train workers: GPUs in all, or processes on CPU."""
    cpus_per_worker: int = 2
    """CPU threads, and logical CPUs claimed, of one worker."""
    gpu: bool = False
    """One GPU a worker, and NCCL; without it CPU and gloo."""
    min_workers: int | None = None
    """Go on with as few workers as these where nodes are lost, and with more, up to --workers, where some come back.
    The global batch stays. By default all must be there."""
    checkpoint_minutes: float = 10.0
    """A checkpoint also within an epoch, so often; a killed worker costs at most so much time."""
    resize_minutes: float = 1.0
    """With --min-workers: how often it is looked whether more workers have room; to go on with them is a new start from
    the last checkpoint."""
    stream: StreamBy = "auto"
    """Who reads the archive: `workers`, by threads of their own; `ray-data`, tasks of Ray Data on whatever nodes have
    room, into the object store of the node that trains; `auto`, workers from a folder, Ray Data from object storage."""
    max_failures: int = 3
    """Worker-group failures (a worker killed, a node lost) before the run ends."""
    seed: int = 0
    """Of initial weights, order and augmentation."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, f"epochs = {self.epochs}; expected at least 1")
        _require(self.workers >= 1, f"workers = {self.workers}; expected at least 1")
        _require(
            self.batch_size >= 2 * self.workers,
            f"batch_size = {self.batch_size} for {self.workers} workers; expected at least two pairs a worker",
        )
        _require(
            self.min_workers is None or 1 <= self.min_workers <= self.workers,
            f"min_workers = {self.min_workers}; expected 1 to {self.workers}, the workers",
        )
        _require(self.checkpoint_minutes > 0, f"checkpoint_minutes = {self.checkpoint_minutes}; expected more than 0")
        _require(self.resize_minutes > 0, f"resize_minutes = {self.resize_minutes}; expected more than 0")
        _require(
            self.micro_batch is None or self.micro_batch >= 2,
            f"micro_batch = {self.micro_batch}; expected at least 2: one pair has no statistics",
        )
        _require(self.lr > 0, f"lr = {self.lr}; expected more than 0")
        _require(0 < self.crop <= 1, f"crop = {self.crop}; expected a share above 0, up to 1")
        _require(self.augment or self.crop == 1, f"crop = {self.crop} without augmentation; leave out one of the two")
        _require(0 <= self.warmup < 1, f"warmup = {self.warmup}; expected a share from 0, below 1")
        _require(not (self.resume and self.name is None), "resume wants the name of the run: --resume --name NAME")


@dataclass(frozen=True, kw_only=True)
class ExportModelConfig:
    """Which checkpoint becomes a model."""

    run: str
    """Name of the run."""
    workspace: str = WORKSPACE
    """Where the run is, and where the model goes."""
    checkpoint: str | None = None
    """Name of the checkpoint, as in runs/<run>; the newest if not given."""
    name: str | None = None
    """Name of the model; by default run and checkpoint."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """What embeds images."""

    workspace: str = WORKSPACE
    """Where archive and models are, and where the index goes."""
    actors: int = 1
    """Embedding actors."""
    cpus_per_actor: int = 2
    """CPU threads, and logical CPUs claimed, of one actor."""
    gpu: bool = False
    """One GPU an actor."""
    batch_size: int = 64
    """Pairs embedded at a time."""

    def __post_init__(self) -> None:
        _require(
            min(self.actors, self.cpus_per_actor, self.batch_size) >= 1, "actors, CPUs and batch: expected at least 1"
        )


@dataclass(frozen=True, kw_only=True)
class IndexConfig(EmbeddingConfig):
    """How an archive is embedded and indexed."""

    model: str | None = None
    """Name of the model bundle; the newest if not given."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    """Splits to index: all make the whole archive searchable; one alone is searched, and adapted to, by itself."""
    adapt: Literal["none", "centre", "statistics"] = "centre"
    """Adapt the encoders to a sample of what is indexed, without labels. The modalities of an archive lie apart: taking
    each one's centre away closes that gap at no loss. With batch-norm statistics estimated anew before that, retrieval
    fell on both archives where it was measured (recall@10 0.50 to 0.43, 0.37 to 0.24)."""
    recall: float = 0.99
    """Recall@10 that approximate indexes of large segments are tuned to; 1 searches everything exactly."""
    exact_rows: int = 200_000
    """Segments of at most so many pairs are searched exactly, whatever the recall: an exact scan of so many is as fast
    as anyone needs it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.recall <= 1, f"recall = {self.recall}; expected a share above 0, up to 1")
        _require(self.exact_rows >= 0, f"exact_rows = {self.exact_rows}; expected 0 or more")
        _require(bool(self.splits), "splits: none given; expected at least one of train, validation, test")


@dataclass(frozen=True, kw_only=True)
class AppendConfig(EmbeddingConfig):
    """How what is new in an archive is added to its index: by the model, and adapted as the index is."""

    splits: tuple[Literal["train", "validation", "test"], ...] | None = None
    """Splits whose new shards are added; by default those that the index has shards of already."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.splits != (), "splits: none given; expected at least one of train, validation, test")


@dataclass(frozen=True, kw_only=True)
class RefreshConfig(AppendConfig):
    """How an index is brought up to its sources, and what decides whether what is new is served."""

    codec: Literal["none", "zstd"] = "none"
    """How pixels of new pairs are stored, as `sscm ingest` has it."""
    max_bad: float = 0.01
    """Share of unusable pairs at which ingest gives up."""
    tolerance: float = 0.02
    """Loss of partner recall, a share, that is accepted of the images that were indexed."""
    least: float = 0.5
    """Partner recall that new images must reach, as a share of that of images that were indexed and not trained on; new
    places may be harder ones."""
    depth: int = 10
    """Answers that are looked at for a partner, before; after, as many more as there are more images."""
    queries: int = 2000
    """Queries of each kind and direction, drawn at random; all pairs where they are fewer."""
    accept: bool = False
    """Commit what is new whatever its recall."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 <= self.max_bad <= 1, f"max_bad = {self.max_bad}; expected a share from 0 to 1")
        _require(0 <= self.tolerance < 1, f"tolerance = {self.tolerance}; expected a share from 0, below 1")
        _require(0 <= self.least <= 1, f"least = {self.least}; expected a share from 0 to 1")
        _require(min(self.depth, self.queries) >= 1, "depth and queries: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class RestoreConfig:
    """Which earlier generation an index goes back to."""

    generation: int
    """Its number, as `sscm index list` shows it."""
    workspace: str = WORKSPACE
    """Where the index is."""


@dataclass(frozen=True, kw_only=True)
class DeleteConfig:
    """Which pairs are deleted from an index: those that everything given holds for."""

    workspace: str = WORKSPACE
    """Where the index is."""
    ids: tuple[str, ...] = ()
    """Ids of pairs."""
    ids_file: Path | None = None
    """A text file of ids, one a line, beside those of --ids."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east and north in degrees: pairs whose footprint touches that box."""
    datetime: str | None = None
    """RFC 3339 instant, or interval start/end, of which one end may be ..: pairs of which an image was taken then."""
    labels: tuple[str, ...] = ()
    """Pairs that have any of these labels."""
    split: Literal["train", "validation", "test"] | None = None
    """Pairs of one split."""
    filter: str | None = None
    """A condition in CQL2 text over ids, times, footprints and properties."""
    dry_run: bool = False
    """Say how many pairs would go, and change nothing."""
    ignore_missing: bool = False
    """Delete the pairs that are there; without it, an id that the index does not know is an error: it may be a slip."""

    def __post_init__(self) -> None:
        given = (self.ids, self.ids_file, self.bbox, self.datetime, self.labels, self.split, self.filter)
        _require(
            any(value not in (None, ()) for value in given),
            "nothing says which pairs: expected --ids, --ids-file, --bbox, --datetime, --labels, --split or --filter",
        )


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """When segments are put together, and deleted pairs taken out of them."""

    workspace: str = WORKSPACE
    """Where the index is."""
    small: float = 0.5
    """Segments that have less than this share of the most rows of a segment are merged. Two of half the size fill one:
    a row is seldom written again, and few segments stay small."""
    deleted: float = 0.1
    """A segment of which more than this share is deleted is written anew: a deleted row costs a search as much as
    another, and stays in the file."""

    def __post_init__(self) -> None:
        _require(0 <= self.small <= 1, f"small = {self.small}; expected a share from 0 to 1")
        _require(0 <= self.deleted < 1, f"deleted = {self.deleted}; expected a share from 0, below 1")


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Which index is listed."""

    workspace: str = WORKSPACE
    """Where the index is."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """What is verified."""

    workspace: str = WORKSPACE
    """Where the index is."""
    generation: int | None = None
    """Number of the generation; the current one if not given."""


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """What of an index may go for good."""

    workspace: str = WORKSPACE
    """Where the index is."""
    keep: int = 2
    """Newest generations that stay: the current one, and the one before, to go back to. Pinned ones stay besides."""
    min_age: float = 1.0
    """Hours that anything stays after its writing: it may be part of what a build is about to commit. 0 frees the space
    of what was just deleted at once."""
    dry_run: bool = False
    """Say what would go, and delete nothing."""

    def __post_init__(self) -> None:
        _require(self.keep >= 1, f"keep = {self.keep}; expected at least 1")
        _require(self.min_age >= 0, f"min_age = {self.min_age}; expected 0 or more hours")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What of an index is exported."""

    workspace: str = WORKSPACE
    """Where the index is."""
    generation: int | None = None
    """Number of the generation; the current one if not given."""
    modalities: tuple[str, ...] | None = None
    """Whose embeddings are exported, e.g. s2; all if not given. Pairs that have none of them are left out."""
    splits: tuple[Literal["train", "validation", "test"], ...] | None = None
    """Splits whose pairs are exported; all if not given."""
    overwrite: bool = False
    """Replace an export that is there; what no export has written is never replaced."""

    def __post_init__(self) -> None:
        _require(self.modalities != (), "modalities: none given; expected at least one")
        _require(self.splits != (), "splits: none given; expected at least one of train, validation, test")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How retrieval is measured."""

    workspace: str = WORKSPACE
    """Where archive, model and index are."""
    protocol: Literal["csmae", "jepa", "mueller"] | None = None
    """A published protocol: it fixes splits, numbers of answers, the own-pair rule and the headline metric."""
    query_split: Literal["train", "validation", "test"] | None = None
    """Split whose images are the queries; without a protocol, test."""
    archive_split: Literal["train", "validation", "test"] | None = None
    """Split whose images are searched; without a protocol, test. Where it is the queries' own, a query never finds
    itself."""
    untrained: bool = True
    """Also measure an encoder of the same architecture that was never trained."""
    json: Path | None = None
    """Write every figure to this file."""
    report: Path | None = None
    """The report page; by default report.html in a local workspace, else in the working directory."""
    gallery: Path | None = None
    """Also draw the gallery's first rows as a PNG picture."""
    seed: int = 0
    """Of the untrained encoder, of chance, and of the gallery's queries."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Where and how an experiment runs; what it compares, its file says."""

    workspace: str = WORKSPACE
    """Where the archive is or goes, and the experiment's results."""
    trials_at_once: int | None = None
    """Trials that run at a time; by default as many as the cores, or GPUs, have room for."""

    def __post_init__(self) -> None:
        _require(
            self.trials_at_once is None or self.trials_at_once >= 1,
            f"trials_at_once = {self.trials_at_once}; expected at least 1",
        )


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How an index is served."""

    workspace: str = WORKSPACE
    """Where index and model are."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = 8000
    """Port to listen on."""
    shards: int = 1
    """Index-shard deployments over which the segments are spread."""
    replicas: int = 1
    """Replicas of each index shard; with two, one that is lost is not missed."""
    gateways: int = 1
    """Gateway replicas, at least."""
    max_gateways: int = 0
    """Gateway replicas while there is much to do; no more than --gateways if that is larger."""
    encoders: int = 1
    """Encoder replicas a modality, at least."""
    max_encoders: int = 0
    """Encoder replicas a modality while there is much to do; no more than --encoders if that is larger."""
    watch_s: float = 5.0
    """Seconds between two looks for a newer generation of the index, to serve that; 0 for `sscm serve reload` only."""
    threads: int = 2
    """CPU threads of one encoder or index shard."""
    deadline_s: float = 10.0
    """Longest time a request may take, seconds."""
    max_upload_mb: int = 64
    """Largest request body, MB."""
    max_in_flight: int = 512
    """Requests that a gateway has in hand; more are refused with 429. Several times what fills a batch of each kind."""
    keys: str | None = None
    """File or URI of API keys, made by `sscm keys add`; without one whoever reaches the service may search."""
    cors_origins: str = ""
    """Origins whose pages may ask this service, e.g. https://map.example.org, several with commas between."""
    tiles: str | None = None
    """URL template of a tile server for the page's map, e.g. https://tiles.example.org/{z}/{x}/{y}.png; by default
    coastlines of our own, since browsers would ask somebody else."""
    tiles_by: str | None = None
    """Whom the tile server wants named on the map."""
    log_format: Literal["text", "json"] = "json"
    """How a gateway writes its line a request: json for programs, with tracebacks in a field, or text for people."""

    def __post_init__(self) -> None:
        for origin in self.origins:
            _require(
                re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin) is not None,
                f"cors_origins: {origin!r}; expected origins such as https://map.example.org, without path or *",
            )
        _require(self.max_in_flight >= 1, f"max_in_flight = {self.max_in_flight}; expected at least 1")
        _require(
            min(self.shards, self.replicas, self.gateways, self.encoders, self.threads) >= 1,
            "shards, replicas, gateways, encoders and threads: expected at least 1",
        )
        _require(0 <= self.port < 65536, f"port = {self.port}; expected 0 to 65535")
        _require(self.watch_s >= 0, f"watch_s = {self.watch_s}; expected at least 0")
        _require(self.deadline_s > 0, f"deadline_s = {self.deadline_s}; expected more than 0")

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of ``cors_origins``."""
        return tuple(origin.strip() for origin in self.cors_origins.split(",") if origin.strip())


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What a running service is asked for, and how its answers are shown."""

    target: tuple[str, ...]
    """Modality that is looked for, e.g. s2. Of several, each has as many answers."""
    modality: str | None = None
    """What the image, or the item that is the example, was taken by, e.g. s1."""
    id: str | None = None
    """Search by an item of the index instead of files."""
    like: tuple[str, ...] = ()
    """Search by several items: ids of those wanted."""
    unlike: tuple[str, ...] = ()
    """Beside --like: ids of items unlike those wanted."""
    vector: Path | None = None
    """Search by an embedding: an .npy file of one vector."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east and north in degrees: images whose footprint touches that box."""
    datetime: str | None = None
    """RFC 3339 instant, or interval start/end, of which one end may be ..: images that were taken then."""
    ids: tuple[str, ...] = ()
    """These items only."""
    labels: tuple[str, ...] = ()
    """Items that have any of these labels."""
    split: Literal["train", "validation", "test"] | None = None
    """Items of one split."""
    filter: str | None = None
    """A condition in CQL2 text over ids, times, footprints and properties."""
    min_score: float | None = None
    """Least score, a cosine similarity, of an answer."""
    limit: int = 10
    """Answers wanted."""
    url: str = "http://127.0.0.1:8000"
    """Where the service listens."""
    api_key: str | None = None
    """Key, for a service that wants one; by default that of SSCM_API_KEY, which other users of a machine do not see."""
    format: Literal["table", "json", "ids"] = "table"
    """A table for people, the service's GeoJSON, or ids, one a line."""
    save: Path | None = None
    """Folder, new or empty: the answers go there as answers.geojson, with the images found as JPEGs."""

    def __post_init__(self) -> None:
        _require(bool(self.target), "target: none given; expected the modality that is looked for, such as s2")
        _require(1 <= self.limit <= 1000, f"limit = {self.limit}; expected 1 to 1000")
        _require(bool(self.like) or not self.unlike, "--unlike without --like; expected both")


@dataclass(frozen=True, kw_only=True)
class SpotConfig:
    """How a spot machine's notice is looked for, and whom it is about."""

    address: str = "auto"
    """Address of the cluster, host:port of its head; auto is the one that runs here."""
    node_id: str | None = None
    """Ray's id of the node; the one of this machine if not given."""
    every_s: float = 5.0
    """Seconds between two looks; the notice comes two minutes before the end."""

    def __post_init__(self) -> None:
        _require(self.every_s > 0, f"every_s = {self.every_s}; expected more than 0")


@dataclass(frozen=True, kw_only=True)
class ClusterCheckConfig:
    """What of a cluster is checked."""

    workspace: str | None = None
    """Path or URI that every node is to write, read and share; without it no storage is tried."""
    workers: int = TrainConfig.workers
    """Workers of the training that is to run, as sscm train takes them."""
    cpus_per_worker: int = TrainConfig.cpus_per_worker
    """Logical CPUs of each of them."""
    gpu: bool = TrainConfig.gpu
    """One GPU each of them."""
    min_workers: int | None = None
    """Workers that it begins with, if fewer will do."""
    deadline_s: float = 20.0
    """Seconds that a node may take for an answer: several times what the first takes, which starts a process and
    imports torch."""
    json: Path | None = None
    """Write every finding to this file; - is the standard output, and the table goes to the other."""

    def __post_init__(self) -> None:
        _require(
            min(self.workers, self.cpus_per_worker) >= 1, "workers and CPUs of a worker: expected at least 1 of each"
        )
        _require(
            self.min_workers is None or 1 <= self.min_workers <= self.workers,
            f"min_workers = {self.min_workers}; expected 1 to {self.workers}, the workers",
        )
        _require(self.deadline_s > 0, f"deadline_s = {self.deadline_s}; expected more than 0")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The main job on a simulated archive: ingest, train, index, evaluate, serve."""

    workspace: str = "demo"
    """Where everything goes; running the demo again begins anew in it."""
    pairs: int = 2000
    """Simulated pairs."""
    epochs: int = 30
    """Passes over the training split: what two cores manage in a few minutes."""
    serve: bool = True
    """Leave a server running at the end; --no-serve ends instead."""
    port: int = 8000
    """Port of that server."""
    json: Path | None = None
    """Write every figure of the table to this file."""
    seed: int = 0
    """Of the archive, the training and the evaluation."""
