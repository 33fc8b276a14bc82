"""What a process used of its machine, for the record of each epoch."""

import resource
import sys
import time

import torch

KIB_PER_MIB = 1024


class UsageMeter:
    """Measures this process between two readings."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._since = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Mean CPU use since the last reading in % of one core, and peak memory of process and GPU in MiB."""
        now, before = (time.perf_counter(), time.process_time()), self._since
        self._since = now
        elapsed = max(now[0] - before[0], 1e-9)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB
        used = {
            "cpu_percent": round(100 * (now[1] - before[1]) / elapsed, 1),
            "memory_mb": round(peak / (KIB_PER_MIB if sys.platform == "darwin" else 1), 1),  # macOS counts in bytes
        }
        if self._device.type == "cuda":
            used["gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(self._device) / KIB_PER_MIB**2, 1)
        return used
