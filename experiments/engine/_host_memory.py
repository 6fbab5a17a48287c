"""vLLM's own KV offloading to host memory, with the copying done by hand: the CPU platform lacks only that.

`OffloadingConnector`, its scheduler's side and worker's side, and the manager of host memory are vLLM's. Its copies run
on streams of a GPU; here they are plain copies, which a step hears of `STEPS` steps later, as those of a bus would be.
A load writes its blocks only then, so that whoever used them earlier would compute other tokens.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from vllm.v1.kv_offload.base import CanonicalKVCaches, GPULoadStoreSpec, LoadStoreSpec, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec

STEPS = 3  # that a copy takes

Pairs = list[tuple[int, int]]  # (block of the pool, chunk of host memory)


class HostMemorySpec(CPUOffloadingSpec):
    """As `spec_name`, with this module as `spec_module_path`, in `kv_connector_extra_config`."""

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        """Of this process; a chunk is one block."""
        assert self.blocks_per_chunk == 1
        if self._worker is None:
            self._worker = HostMemoryWorker(kv_caches, self.num_chunks)
        return self._worker


class HostMemoryWorker(OffloadingWorker):
    """The pool's tensors (blocks, bytes), and as many in host memory (chunks, bytes)."""

    def __init__(self, kv_caches: CanonicalKVCaches, chunks: int) -> None:
        self._pool = [one.tensor.view(torch.int8).view(-1, one.page_size_bytes) for one in kv_caches.tensors]
        self._host = [torch.zeros((chunks, one.shape[1]), dtype=torch.int8) for one in self._pool]
        self._loads: dict[int, Pairs] = {}  # by job, still to be written
        self._under_way: dict[int, int] = {}  # by job, steps until it is done

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        """See `OffloadingWorker`."""
        for block, chunk in _pairs(src_spec, dst_spec):
            for pool, host in zip(self._pool, self._host, strict=True):
                host[chunk] = pool[block]
        self._under_way[job_id] = STEPS
        return True

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        """See `OffloadingWorker`."""
        self._loads[job_id], self._under_way[job_id] = _pairs(dst_spec, src_spec), STEPS
        return True

    def get_finished(self) -> list[TransferResult]:
        """See `OffloadingWorker`; called once in a step."""
        self._under_way = {job: left - 1 for job, left in self._under_way.items()}
        done = [job for job, left in self._under_way.items() if left <= 0]
        for job in done:
            del self._under_way[job]
            self._write(job)
        return [TransferResult(job, True) for job in done]

    def wait(self, job_ids: set[int]) -> None:
        """See `OffloadingWorker`."""
        for job in job_ids & self._under_way.keys():
            self._write(job)
            self._under_way[job] = 0

    def _write(self, job: int) -> None:
        for block, chunk in self._loads.pop(job, ()):
            for pool, host in zip(self._pool, self._host, strict=True):
                pool[block] = host[chunk]


def _pairs(pool: GPULoadStoreSpec, host: Any) -> Pairs:
    assert isinstance(host, CPULoadStoreSpec)
    return list(zip(pool.block_ids.tolist(), host.chunk_ids.tolist(), strict=True))
