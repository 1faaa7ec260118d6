"""What an experiment file says: the data, the budget, the runs that are compared, the baselines.

::

    name = "simulated"
    seeds = [0, 1, 2]               # of every run
    query_split = "test"
    archive_split = "test"
    pairs = 2000                    # optional: train on a seeded sample of so many pairs
    [ingest.synthetic]              # optional: makes the archive where the workspace has none; fields of the source
    pairs = 3000
    [expect]                        # optional: what the archive must hold, or the experiment does not start
    train = 2100
    [defaults]                      # fields of TrainConfig, for all runs
    epochs = 20
    [defaults.model]
    backbone = "resnet10t"
    [[runs]]                        # one a row: a name, and what differs
    name = "NT-Xent"
    objective = { w_mde = 0.0, w_isp = 0.0 }
    adapt = ["none", "centre"]      # the same weights, as trained and centred on the archive searched: two rows
    [baselines]
    chance = true
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sscm.config import BigEarthNetConfig, PairsConfig, StacConfig, SyntheticConfig, TrainConfig
from sscm.errors import ConfigError
from sscm.experiment.fields import build, merge, require_known

Adapt = Literal["none", "centre", "statistics"]
"""How encoders are adapted to the archive searched, as of ``sscm index``."""
SourceConfig = SyntheticConfig | BigEarthNetConfig | PairsConfig | StacConfig

SOURCES: dict[str, type[SourceConfig]] = {
    "synthetic": SyntheticConfig,
    "bigearthnet": BigEarthNetConfig,
    "pairs": PairsConfig,
    "stac": StacConfig,
}
"""Sources that an experiment can make its archive from."""
FIXED = ("workspace", "name", "resume", "workers", "max_failures", "seed")
"""Fields of TrainConfig that an experiment sets itself."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training that is compared.

    Args:
        name: what its row is called.
        config: settings of the training, seed 0.
        differs: what it was given beyond the defaults, as in the file.
        adapt: how its encoders are adapted to the archive searched: trained once, evaluated in each of these ways.
    """

    name: str
    config: TrainConfig
    differs: Mapping[str, Any] = field(default_factory=dict)
    adapt: tuple[Adapt, ...] = ("none",)


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Rows to compare with."""

    chance: bool = True
    """A random order."""
    untrained: bool = True
    """The runs' encoders, their weights as drawn; adapted where the runs are."""
    spectrum: bool = True
    """Means, deviations and histograms of a patch's bands, brought together by canonical correlation; standardised by
    the images searched as well where any run is adapted."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What an archive must hold for the figures to be what they are said to be."""

    train: int | None = None
    """Pairs of the training split."""
    validation: int | None = None
    """Pairs of the validation split."""
    test: int | None = None
    """Pairs of the test split."""
    lists: str | None = None
    """Folder of the lists train, val and test (or a CSV of name and split): every listed name must be there."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Runs compared on the same data, budget and seeds."""

    name: str
    """Folder under ``experiments/`` of the workspace."""
    seeds: tuple[int, ...] = (0,)
    """Each run is trained once for each."""
    query_split: Literal["train", "validation", "test"] = "test"
    """Split whose images are the queries."""
    archive_split: Literal["train", "validation", "test"] = "test"
    """Split whose images are searched."""
    pairs: int | None = None
    """Train on a sample of so many pairs, the same for all runs and seeds; by default on all."""
    memory_gb: float = 4.0
    """Most memory that the prepared training images may take, all trials of a node together."""
    hours_per_trial: float = 24.0
    """A trial that runs longer is ended and named as failed."""
    source: SourceConfig | None = None
    """What the archive is made from where the workspace has none."""
    expect: Expectation = field(default_factory=Expectation)
    runs: tuple[Run, ...] = ()
    baselines: Baselines = field(default_factory=Baselines)

    def __post_init__(self) -> None:
        names = [run.name for run in self.runs]
        _require(bool(_NAME.fullmatch(self.name)), f"name = {self.name!r}; expected letters, digits, '.', '_', '-'")
        _require(bool(self.runs), "no runs; expected at least one [[runs]] table")
        _require(all(run.name and run.adapt for run in self.runs), "a run without a name or with adapt = []")
        _require(len(set(names)) == len(names), f"runs {names}: a name occurs twice; expected each once")
        _require(bool(self.seeds) and min(self.seeds) >= 0, f"seeds = {list(self.seeds)}; expected some, 0 or more")
        _require(len(set(self.seeds)) == len(self.seeds), f"seeds = {list(self.seeds)}; expected each once")
        _require(self.pairs is None or self.pairs >= 2, f"pairs = {self.pairs}; expected at least 2")
        _require(self.memory_gb > 0, f"memory_gb = {self.memory_gb}; expected more than 0")
        _require(self.hours_per_trial > 0, f"hours_per_trial = {self.hours_per_trial}; expected more than 0")


_KEYS = (
    "name", "seeds", "query_split", "archive_split", "pairs", "memory_gb", "hours_per_trial",
    "ingest", "expect", "defaults", "runs", "baselines",
)  # fmt: skip


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file; ``${NAME}`` in a text of ``[ingest]`` or ``[expect]`` is that environment variable.

    Raises:
        ConfigError: no such file, not TOML, or a setting that cannot work; the message names its place.
    """
    try:
        return parse_experiment(tomllib.loads(path.read_text()), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected an experiment file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from error


def parse_experiment(values: Mapping[str, Any], where: str) -> Experiment:
    """An experiment from the tables of its file.

    Args:
        values: the file's content.
        where: its name, for messages.

    Raises:
        ConfigError: a setting that cannot work; the message names its place.
    """
    require_known(values, _KEYS, where)
    for key in ("ingest", "expect", "defaults"):
        _require(isinstance(values.get(key, {}), Mapping), f"{where}: {key} is no table; expected [{key}]")
    runs = values.get("runs", [])
    _require(
        isinstance(runs, list) and all(isinstance(run, Mapping) for run in runs),
        f"{where}: runs is no list of tables; expected [[runs]] for each",
    )
    given = {key: value for key, value in values.items() if key not in ("ingest", "defaults")}
    given["runs"] = tuple(_run(run, values.get("defaults", {}), f"{where}: runs[{i}]") for i, run in enumerate(runs))
    given["expect"] = _expanded(values.get("expect", {}), f"{where}: expect")
    given["source"] = _source(values.get("ingest", {}), f"{where}: ingest")
    return build(Experiment, given, where)


def _run(values: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> Run:
    differs = {key: value for key, value in values.items() if key not in ("name", "adapt")}
    fixed = sorted(set(merge(defaults, differs)) & set(FIXED))
    _require(not fixed, f"{where}: {', '.join(fixed)} cannot be set for a run; the experiment sets it for all")
    known = [each.name for each in dataclasses.fields(TrainConfig) if each.name not in FIXED]
    require_known(merge(defaults, differs), known, where)
    adapt = values.get("adapt", "none")
    return build(
        Run,
        {
            **{key: values[key] for key in ("name",) if key in values},
            "config": build(TrainConfig, merge(defaults, differs), where),
            "differs": differs,
            "adapt": tuple(adapt) if isinstance(adapt, list) else (adapt,),
        },
        where,
    )


def _source(values: Mapping[str, Any], where: str) -> SourceConfig | None:
    require_known(values, SOURCES, where)
    _require(len(values) <= 1, f"{where}: {', '.join(values)}; expected one source")
    for name, settings in values.items():
        _require(isinstance(settings, Mapping), f"{where}.{name}: expected a table")
        return build(SOURCES[name], _expanded(settings, f"{where}.{name}"), f"{where}.{name}")
    return None


def _expanded(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values with ``${NAME}`` in texts replaced by environment variables."""
    found = {}
    for key, value in values.items():
        if isinstance(value, str):
            missing = [name for name in _VARIABLE.findall(value) if name not in os.environ]
            _require(not missing, f"{where}.{key}: set the environment variable {', '.join(missing)}")
            value = _VARIABLE.sub(lambda match: os.environ[match[1]], value)
        found[key] = value
    return found


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)
