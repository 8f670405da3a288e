"""What a figure was measured on: processor, threads, versions; no names of hosts."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "transformers", "zennit", "captum", "lxt", "autolrp")


def describe(device: str) -> dict[str, str]:
    """Processor (or GPU beside it), cores, threads of torch, Python and the versions of all packages compared."""
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    about = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
    }
    if device.startswith("cuda"):
        about["gpu"] = torch.cuda.get_device_name()
    return about


def _version(package: str) -> str:
    if package == "torch":
        return torch.__version__  # with its build
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """The model's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
