"""Run a function on several processes of one gloo group, as training does on several workers."""

import os
import pickle
import socket
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on(workers, function, *arguments):
    """``function(rank, *arguments)`` on each of some processes; their results, in rank order."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        mp.spawn(_body, (workers, port, folder, function, arguments), nprocs=workers)
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(workers)]


def _body(rank, workers, port, folder, function, arguments):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    try:
        result = function(rank, *arguments)
        (Path(folder) / str(rank)).write_bytes(pickle.dumps(result))
        dist.barrier()  # none leaves while another still talks: gloo's threads would end its process with an abort
    finally:
        dist.destroy_process_group()
