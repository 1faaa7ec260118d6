"""GPUs as a node's driver and its torch see them. Nothing is put on a GPU, so that running work is not disturbed."""

from __future__ import annotations

import os
from typing import Any


def devices() -> dict[str, Any]:
    """What torch and the driver tell.

    Returns:
        What a :class:`sscm.cluster.gpus.Devices` is made of.
    """
    import torch

    return {
        "torch": torch.__version__,
        "torch_gpus": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "usable": torch.cuda.is_available(),
        **_driver(),
    }


def _driver() -> dict[str, Any]:
    """Driver version and GPUs from NVIDIA's management library, which makes no context; none where it is absent."""
    from ray._private.thirdparty import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return {"driver": None, "gpus": []}
    try:
        gpus = []
        for index in _visible(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            gpus.append(
                {
                    "name": _text(nvml.nvmlDeviceGetName(handle)),
                    "memory_bytes": int(memory.total),
                    "free_memory_bytes": int(memory.free),
                    "capability": nvml.nvmlDeviceGetCudaComputeCapability(handle)[0],
                }
            )
        return {"driver": _text(nvml.nvmlSystemGetDriverVersion()), "gpus": gpus}
    finally:
        nvml.nvmlShutdown()


def _visible(count: int) -> list[int]:
    """Indices of the GPUs that CUDA_VISIBLE_DEVICES leaves; all where it says nothing, or names them otherwise."""
    words = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if not all(word.strip().isdecimal() for word in words):
        return list(range(count))
    return [index for index in map(int, words) if index < count]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
