"""The GPUs at a moment, as NVIDIA's management library, `nvidia-smi` or AMD's tools show them."""

from trainguard.gpu.asking import ask_gpus, read_gpus
from trainguard.gpu.values import Gpu, GpuProcess, Gpus, RemappedRows
from trainguard.gpu.xids import Xid, XidLog, has_driver, parse_xids, same_bus

__all__ = (
    "Gpu",
    "GpuProcess",
    "Gpus",
    "RemappedRows",
    "Xid",
    "XidLog",
    "ask_gpus",
    "has_driver",
    "parse_xids",
    "read_gpus",
    "same_bus",
)
