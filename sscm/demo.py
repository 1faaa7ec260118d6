"""The demo: the main job, from a simulated archive to HTTP answers, by the commands' own functions."""

from __future__ import annotations

import dataclasses
import io
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from sscm import runtime
from sscm.archive.ingest import ingest
from sscm.archive.manifest import NAME, Manifest, read_manifest
from sscm.archive.schema import decode_group
from sscm.archive.sources import SyntheticSource
from sscm.config import (
    DemoConfig,
    EvaluateConfig,
    IndexConfig,
    IngestConfig,
    ModelConfig,
    ServeConfig,
    SyntheticConfig,
    TrainConfig,
)
from sscm.evaluation.evaluate import Evaluation, evaluate
from sscm.index.build import build_index
from sscm.training.launch import train
from sscm.workspace import ARCHIVE, Workspace, open_workspace

MODEL = ModelConfig(backbone="test_resnet", image_size=64)
"""A very small backbone at half resolution: what two cores train in two minutes."""
QUERY = "query_s1.npy"
"""A radar image of the test split, to search with from the terminal."""


def demo(config: DemoConfig) -> Evaluation:
    """Simulate an archive, train on it, index it, measure retrieval, and serve.

    Args:
        config: size, epochs, where, and whether to serve at the end.

    Returns:
        The evaluation that was printed; returned when the server is stopped, or at once without one.
    """
    console = Console(stderr=True, highlight=False)
    workspace = open_workspace(config.workspace)
    started = time.monotonic()

    def step(text: str) -> None:
        console.print(f"[bold]{time.monotonic() - started:4.0f} s  {text}[/bold]")

    with runtime.ray_session():
        step(f"simulate {config.pairs} Sentinel-1/Sentinel-2 pairs: nothing in this archive was observed")
        manifest = _archive(config, workspace)
        step(f"train {MODEL.backbone} encoders on {manifest.rows_by_split['train']} pairs without labels")
        bundle = train(
            TrainConfig(
                workspace=workspace.uri,
                epochs=config.epochs,
                batch_size=min(128, max(2, manifest.rows_by_split["train"] // 4)),
                lr=2e-3,
                seed=config.seed,
                model=MODEL,
            )
        )
        step("embed and index the archive")
        build_index(IndexConfig(workspace=workspace.uri, model=bundle.name))
        step("measure retrieval on the test split")
        evaluation = evaluate(EvaluateConfig(workspace=workspace.uri, seed=config.seed, json=config.json))
        _write_query(workspace, manifest)
        step("done")
        Console().print(evaluation.table())
        print(f"report: {evaluation.report}")
        if config.serve:
            from serve.app import serve_workspace  # Ray Serve is imported where it is used

            query = Path(workspace.path_of(QUERY))
            print(f"try:    sscm search {query} --modality s1 --target s2 --url http://127.0.0.1:{config.port}")
            serve_workspace(ServeConfig(workspace=workspace.uri, port=config.port))
        else:
            print(f"serve:  sscm serve --workspace {config.workspace}")
    return evaluation


def _archive(config: DemoConfig, workspace: Workspace) -> Manifest:
    """The simulated archive; one of other settings is replaced, one of anything else is not."""
    replace = workspace.exists(ARCHIVE, NAME) and read_manifest(workspace).simulated
    source = SyntheticSource(SyntheticConfig(pairs=config.pairs, seed=config.seed))
    return ingest(source, dataclasses.replace(IngestConfig(workspace=workspace.uri), replace=replace))


def _write_query(workspace: Workspace, manifest: Manifest) -> None:
    """Write the first radar image of the test split as ``.npy``, dB float32 [2, height, width]."""
    shard = manifest.of_split("test")[0]
    group = manifest.group("s1")
    with workspace.parquet(ARCHIVE, *shard.file.split("/")) as file:
        column = file.read_row_group(0, columns=["s1"])["s1"]
    buffer = io.BytesIO()
    np.save(buffer, decode_group(column, group)[0], allow_pickle=False)
    workspace.write_bytes(buffer.getvalue(), QUERY)
