"""torch and FAISS in one process, each with threads of OpenMP.

Both bring an OpenMP runtime. Where torch is loaded first, FAISS finds that one and shares its threads. Loaded the other
way round there are two, whose idle threads spin for a while after each step: on as many cores they keep each other from
working (two threads were measured to take three times as long as one). So import FAISS from here.
"""

import torch  # isort: skip
import faiss  # isort: skip

import contextlib
import functools
from collections.abc import Iterator

__all__ = ["faiss", "is_shared", "threads"]


@functools.cache
def is_shared() -> bool:
    """Whether torch and FAISS share the threads of one runtime."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(2)
    faiss.omp_set_num_threads(3)
    shared = torch.get_num_threads() == 3
    faiss.omp_set_num_threads(before[1])
    torch.set_num_threads(before[0])
    return shared


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Bound the threads of what the calling thread does with torch and FAISS.

    With FAISS it is one where it does not share torch's.
    """
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count if is_shared() else 1)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before[1])
        torch.set_num_threads(before[0])
