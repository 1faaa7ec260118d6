"""The command line: parse → settings → one function that a notebook can call too.

Flags are made from the classes of :mod:`sscm.config`. What a command needs is imported when it runs, so that ``--help``
answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from sscm.config import (
    WORKSPACE,
    AppendConfig,
    BigEarthNetConfig,
    ClusterCheckConfig,
    CollectConfig,
    CompactConfig,
    DeleteConfig,
    DemoConfig,
    EvaluateConfig,
    ExperimentConfig,
    ExportConfig,
    ExportModelConfig,
    IndexConfig,
    IngestConfig,
    ListConfig,
    PairsConfig,
    RefreshConfig,
    RestoreConfig,
    Role,
    SearchConfig,
    ServeConfig,
    SpotConfig,
    StacConfig,
    SyntheticConfig,
    TrainConfig,
    VerifyConfig,
)
from sscm.errors import SscmError

KEYS = f"{WORKSPACE}/keys.json"
"""Where the keys of a service lie if nothing else is said."""

SourceConfig = (
    Annotated[SyntheticConfig, tyro.conf.subcommand("synthetic")]
    | Annotated[BigEarthNetConfig, tyro.conf.subcommand("bigearthnet")]
    | Annotated[PairsConfig, tyro.conf.subcommand("pairs")]
    | Annotated[StacConfig, tyro.conf.subcommand("stac")]
)


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Write image pairs as an archive: shards and a manifest."""

    source: SourceConfig
    """Where the pairs come from."""
    settings: IngestConfig = field(default_factory=IngestConfig)


@dataclass(frozen=True, kw_only=True)
class Archived:
    """What the archive has and the index has not: nothing is ingested."""


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """Ingest what is new, embed it, and serve it if it does as well as what is indexed."""

    source: SourceConfig | Annotated[Archived, tyro.conf.subcommand("archived")]
    """Where new pairs come from."""
    settings: RefreshConfig = field(default_factory=RefreshConfig)


@dataclass(frozen=True, kw_only=True)
class AddKey:
    """Make a key, print it once and keep its hash."""

    name: tyro.conf.Positional[str]
    """Who the key is for; stands in the service's log."""
    role: Role
    """read asks; admin may also change what is served."""
    keys: str = KEYS
    """File or URI of the keys."""


@dataclass(frozen=True, kw_only=True)
class ListKeys:
    """Show whose keys there are."""

    keys: str = KEYS
    """File or URI of the keys."""


@dataclass(frozen=True, kw_only=True)
class RemoveKey:
    """Take a key away; a running service refuses it within seconds."""

    name: tyro.conf.Positional[str]
    """Whose key."""
    keys: str = KEYS
    """File or URI of the keys."""


KeyCommand = (
    Annotated[AddKey, tyro.conf.subcommand("add")]
    | Annotated[ListKeys, tyro.conf.subcommand("list")]
    | Annotated[RemoveKey, tyro.conf.subcommand("remove")]
)


@dataclass(frozen=True, kw_only=True)
class Serve:
    """How an index is served, by flags or by a file."""

    settings: ServeConfig = field(default_factory=ServeConfig)
    """The settings."""
    file: Path | None = None
    """A file of settings, made by --write, instead of flags."""
    write: Path | None = None
    """Write the settings to a file that `serve deploy` takes, and serve nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: as after ``sscm`` on the command line; ``sys.argv`` if None.

    Returns:
        Exit code: 0 done, 1 an error that the message explains, 130 interrupted.
    """
    commands: dict[str, Callable[..., Any]] = {
        "ingest": _ingest,
        "train": _train,
        "index": _index,
        "refresh": _refresh,
        "evaluate": _evaluate,
        "experiment": _experiment,
        "serve": _serve,
        "keys": _keys,
        "search": _search,
        "cluster": _cluster,
        "demo": _demo,
    }
    # What is done to an index that is there. `sscm index` and its flags build one: it needs no second word.
    index_commands: dict[str, Callable[..., Any]] = {
        "append": _append,
        "delete": _delete,
        "restore": _restore,
        "compact": _compact,
        "list": _list,
        "verify": _verify,
        "gc": _gc,
        "export": _export,
    }
    cluster_commands: dict[str, Callable[..., Any]] = {"check": _cluster_check, "spot": _cluster_spot}
    args = sys.argv[1:] if arguments is None else arguments
    prog, description = "sscm", "Find satellite images across sensors: train, index, evaluate, serve."
    if args[:1] == ["index"] and args[1:2] and args[1] in index_commands:
        prog, description, commands, args = "sscm index", "Keep an index.", index_commands, args[1:]
    elif args[:1] == ["cluster"]:
        prog, description, commands, args = "sscm cluster", "Look after a cluster.", cluster_commands, args[1:]
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs)
    try:
        code: Any = None
        if args[:2] == ["train", "export"]:
            tyro.cli(_export_model, prog="sscm train export", args=args[2:], config=config)
        elif args[:2] == ["serve", "reload"]:
            tyro.cli(_reload, prog="sscm serve reload", args=args[2:], config=config)
        else:
            code = tyro.extras.subcommand_cli_from_dict(
                commands, prog=prog, description=description, args=args, config=config
            )
    except SscmError as error:
        print(f"sscm: {type(error).__name__.removesuffix('Error')} error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sscm: interrupted; run it again to go on (a training: with --resume and its --name)", file=sys.stderr)
        return 130
    return int(code or 0)


def _ingest(command: Ingest) -> None:
    """Write image pairs as an archive: shards and a manifest."""
    from sscm.archive.ingest import ingest
    from sscm.archive.sources import make_source

    manifest = ingest(make_source(command.source), command.settings)
    splits = ", ".join(f"{rows} {split}" for split, rows in manifest.rows_by_split.items())
    size = f"{len(manifest.shards)} shards, {manifest.bytes / 1e6:,.0f} MB"
    bad = f"; {manifest.bad_pairs} unusable, listed in archive/bad_pairs.json" if manifest.bad_pairs else ""
    print(f"archive of {manifest.rows} pairs ({splits}) in {size}{bad}")


def _refresh(command: Refresh) -> None:
    """Ingest what is new, embed it, and serve it if it does as well as what is indexed.

    For a nightly job. Exit code 1 where the index stays as it was.
    """
    from rich.console import Console

    from sscm.archive.sources import make_source
    from sscm.refresh.launch import growth_table, refresh

    source = None if isinstance(command.source, Archived) else make_source(command.source)
    done = refresh(source, command.settings)
    if done.record is None:
        print(f"index generation {done.generation.number} has all there is")
        return
    Console().print(growth_table(done))
    number, rows = done.generation.number, done.generation.rows
    print(f"index generation {number}: {done.rows:,} new pairs, {rows:,} rows; figures: {done.record}")


def _train(config: TrainConfig) -> None:
    """Train encoders on the archive.

    sscm train export makes a model of a run's checkpoint, of a training that was stopped or still goes on.
    """
    from sscm.training.launch import train

    bundle = train(config)
    seconds = float(bundle.record["seconds"])
    print(f"model {bundle.name}, {len(bundle.record['epochs'])} epochs in {seconds:.0f} s; next: sscm index")


def _export_model(config: ExportModelConfig) -> None:
    """Make a model of a run's checkpoint, of a training that was stopped or still goes on."""
    from sscm.training.export import export_model

    bundle = export_model(config)
    epochs, steps = len(bundle.record["epochs"]), bundle.record["steps_of_next_epoch"]
    print(f"model {bundle.name}, {epochs} epochs and {steps} steps; next: sscm index --model {bundle.name}")


def _index(config: IndexConfig) -> None:
    """Embed the archive and commit an index generation.

    With an index there, sscm index append | delete | restore | compact | list | verify | gc | export keep and share it;
    each has its --help.
    """
    from sscm.index.build import build_index

    generation = build_index(config)
    print(
        f"index generation {generation.number}: {generation.rows} rows by model {generation.bundle}; next: sscm serve"
    )


def _append(config: AppendConfig) -> None:
    """Embed what is new in the archive and add it to the index."""
    from sscm.index.append import append_to_index

    generation = append_to_index(config)
    print(f"index generation {generation.number}: {generation.rows:,} rows in {len(generation.segments)} segments")


def _delete(config: DeleteConfig) -> None:
    """Delete pairs from the index: those that everything given holds for."""
    from sscm.index.delete import delete_from_index

    deletion = delete_from_index(config)
    if config.dry_run:
        print(f"{deletion.rows:,} rows would go; nothing was deleted")
    else:
        number, rows = deletion.generation.number, deletion.generation.rows
        print(f"index generation {number}: {deletion.rows:,} rows deleted, {rows:,} left; next: sscm index compact")


def _restore(config: RestoreConfig) -> None:
    """Go back to an earlier generation: its content becomes the next one, which a running service follows."""
    from sscm.index.restore import restore_index

    generation = restore_index(config)
    print(f"index generation {generation.number}: the {generation.rows:,} rows of generation {config.generation}")


def _compact(config: CompactConfig) -> None:
    """Merge small segments and take deleted rows out of them."""
    from sscm.index.compact import compact_index

    done = compact_index(config)
    number = done.generation.number
    if not done.merged:
        print(f"index generation {number} has nothing to compact")
        return
    print(
        f"index generation {number}: {done.merged} segments became {done.written}, {done.dropped:,} deleted rows are "
        "out; next: sscm index gc"
    )


def _list(config: ListConfig) -> None:
    """Show the generations of the index, and who reads them."""
    from rich.console import Console

    from sscm.index.listing import list_generations, listing_table

    Console().print(listing_table(list_generations(config)))


def _verify(config: VerifyConfig) -> None:
    """Look through every file, row and vector of a generation; exit code 1 where something is wrong."""
    from rich.console import Console

    from sscm.errors import IntegrityError
    from sscm.index.verify import verify_index

    found = verify_index(config)
    Console().print(found.table())
    if found.faults:
        raise IntegrityError(f"index generation {found.generation} is not sound: {len(found.faults)} faults, see above")


def _gc(config: CollectConfig) -> None:
    """Delete old generations, and the files that none is made of any more."""
    from sscm.index.garbage import collect_garbage

    freed = collect_garbage(config)
    verb = "would go" if config.dry_run else "are gone"
    generations = ", ".join(map(str, freed.generations)) or "none"
    print(
        f"generations {generations}; {freed.segments} segments and {freed.files:,} files in all {verb}, "
        f"{freed.bytes / 1e6:,.1f} MB"
    )
    if freed.writers:
        print(f"a writer is at work, so that only generations {verb}: {'; '.join(freed.writers)}")
    elif freed.waiting:
        print(f"{freed.waiting / 1e6:,.1f} MB more are unused and younger than {config.min_age:g} h: they go later")


def _export(target: tyro.conf.Positional[str], settings: ExportConfig) -> None:
    """Write the index with its embeddings as GeoParquet, for other programs.

    Args:
        target: path or URI: a file that ends in .parquet, or a folder of them.
        settings: what of the index.
    """
    from sscm.index.export import export_index

    report = export_index(target, settings)
    files = report.files[0] if len(report.files) == 1 else f"{len(report.files)} files, {report.files[0]} the first"
    print(f"index generation {report.generation}: {report.rows:,} pairs, {report.bytes / 1e6:,.1f} MB in {files}")
    print(f"described by {report.collection}")


def _evaluate(config: EvaluateConfig) -> None:
    """Measure retrieval and write the report page."""
    from rich.console import Console

    from sscm.evaluation.evaluate import evaluate

    evaluation = evaluate(config)
    Console().print(evaluation.table())
    print(f"report: {evaluation.report}")


def _experiment(file: tyro.conf.Positional[Path], settings: ExperimentConfig) -> None:
    """Run what is missing of an experiment: runs compared on the same data, budget and seeds; table and plot.

    Args:
        file: TOML file that names the runs, e.g. recipes/simulated.toml.
        settings: where and how.
    """
    from rich.console import Console

    from sscm.errors import TrainingError
    from sscm.experiment.launch import run_experiment_file
    from sscm.experiment.table import terminal
    from sscm.experiment.trials import EXPERIMENTS
    from sscm.workspace import open_workspace

    results = run_experiment_file(file, settings)
    Console().print(terminal(results))
    print(f"table and plot: {open_workspace(settings.workspace).uri_of(EXPERIMENTS, results.name)}")
    if results.missing:
        raise TrainingError(f"{'; '.join(results.missing)}; run the same command again: it does what is missing")


def _serve(command: Serve) -> None:
    """Answer queries over HTTP until interrupted; sscm serve reload has a running service follow the index."""
    from serve.app import serve_workspace
    from serve.settings_file import read_settings, to_yaml
    from sscm.errors import ConfigError

    settings = command.settings
    if command.file is not None:
        if settings != ServeConfig():
            raise ConfigError(f"--file {command.file} and other settings are given; put these into the file")
        settings = read_settings(command.file)
    if command.write is None:
        serve_workspace(settings)
    else:
        command.write.write_text(to_yaml(settings), "utf-8")
        print(
            f"settings are in {command.write}; next: serve deploy {command.write}, or sscm serve --file {command.write}"
        )


def _reload(url: str = SearchConfig.url, api_key: str | None = None) -> None:
    """Have a running service move to the index's current generation, without a pause.

    Args:
        url: where the service listens.
        api_key: a key of role admin, by default that of SSCM_API_KEY; needed where the service wants keys.
    """
    from sscm.client import Client

    with Client(url, api_key=api_key) as client:
        found = client.reload()
    loading = "" if found.loading is None else f"; {found.loading} is being loaded to take its place"
    print(f"generation {found.generation} is served{loading}")


def _keys(command: KeyCommand) -> None:
    """Keep the API keys of a service: add, list, remove."""
    from rich.console import Console
    from rich.table import Table

    from sscm.keys import add_key, read_keys, remove_key

    if isinstance(command, AddKey):
        print(add_key(command.keys, command.name, command.role))
        print(f"kept nowhere: note it now. Next: sscm serve --keys {command.keys}", file=sys.stderr)
    elif isinstance(command, RemoveKey):
        remove_key(command.keys, command.name)
        print(f"key {command.name!r} is gone from {command.keys}")
    else:
        table = Table("name", "role", "created")
        for key in read_keys(command.keys):
            table.add_row(key.name, key.role, key.created)
        Console().print(table)


def _search(
    files: tyro.conf.Positional[tuple[str, ...]] = (), *, settings: tyro.conf.UseAppendAction[SearchConfig]
) -> None:
    """Ask a running service for images like one, or like several.

    By files, --id, --like or --vector. What may have several values is given as often: --like ID --like ID.

    Args:
        files: the image: one multi-band GeoTIFF, a GeoTIFF a band, or .npy, .npz.
        settings: what else.
    """
    from sscm.client.terminal import search

    search(files, settings)


def _cluster() -> None:
    """Look after a cluster: sscm cluster check finds out before a run what it would trip over."""


def _cluster_spot(config: SpotConfig) -> None:
    """Wait for Amazon's notice that this spot machine will be taken away, and tell Ray; beside Ray on a node."""
    from sscm.spot import wait_and_tell

    wait_and_tell(config)


def _cluster_check(config: ClusterCheckConfig) -> int:
    """Check every node before a run: versions, storage, GPUs, network, memory; exit code 1 where something would fail.

    The cluster is the one that RAY_ADDRESS names, or that the job was submitted to; work that runs there goes on.
    """
    import json

    from rich.console import Console

    from sscm.cluster import check_cluster

    found = check_cluster(config)
    to_stdout = config.json == Path("-")
    if config.json is not None:
        text = json.dumps(found.to_json(), indent=1) + "\n"
        if to_stdout:
            sys.stdout.write(text)
        else:
            config.json.write_text(text, "utf-8")
    console = Console(stderr=to_stdout)
    if not console.is_terminal:  # a job's log
        console.width = max(console.width, 120)
    console.print(found.table())
    return 1 if found.failed else 0


def _demo(config: DemoConfig) -> None:
    """Run the whole main job on a simulated archive."""
    from sscm.demo import demo

    demo(config)


if __name__ == "__main__":
    sys.exit(main())
