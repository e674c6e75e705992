"""Faults of file systems, made for real: full, read-only, broken, frozen, and never answering. They need root."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def _call(*arguments: str) -> None:
    """Run a command of the machine; a machine that cannot do it skips the test."""
    try:
        subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "")
        pytest.skip(f"this machine or user cannot do `{' '.join(arguments)}`: {error} {said}")


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True, timeout=30)


@contextlib.contextmanager
def tmpfs(place: Path, options: str = "size=1m") -> Iterator[Path]:
    """A file system in memory, mounted at a new folder."""
    place.mkdir()
    _call("mount", "-t", "tmpfs", "-o", options, "trainguard-test", str(place))
    try:
        yield place
    finally:
        _unmount(place)


@contextlib.contextmanager
def ext4(place: Path, options: str = "rw") -> Iterator[Path]:
    """A file system of 16 MiB on a loop device, mounted at a new folder."""
    place.mkdir()
    image = place.with_name(place.name + ".image")
    with image.open("wb") as file:
        file.truncate(16 << 20)
    _call("mkfs.ext4", "-q", "-F", str(image))
    _call("mount", "-o", f"loop,{options}", str(image), str(place))
    try:
        yield place
    finally:
        _unmount(place)


@contextlib.contextmanager
def bound(source: Path, place: Path, options: str) -> Iterator[Path]:
    """A folder that is seen once more at a new one, with other options."""
    place.mkdir()
    _call("mount", "--bind", str(source), str(place))
    try:
        _call("mount", "-o", f"remount,bind,{options}", str(place))
        yield place
    finally:
        _unmount(place)


def remount(place: Path, options: str) -> None:
    _call("mount", "-o", f"remount,{options}", str(place))


@contextlib.contextmanager
def frozen(place: Path) -> Iterator[None]:
    """While this lasts, whoever writes there waits in state D, which no signal ends."""
    _call("fsfreeze", "--freeze", str(place))
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(place)], check=True, timeout=30)


@contextlib.contextmanager
def mute(place: Path, served: bool = True) -> Iterator[Path]:
    """A FUSE file system whose server never answers: whoever touches it hangs, as on a dead network mount.

    Not `served`, it gives an error at once, as one whose server has ended.
    """
    place.mkdir()
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"/dev/fuse is needed for a file system that hangs: {error}")
    library = ctypes.CDLL(None, use_errno=True)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if library.mount(b"trainguard-test", os.fsencode(place), b"fuse", 0, options):
            pytest.skip(f"this user may not mount FUSE: {os.strerror(ctypes.get_errno())}")
        try:
            if not served:
                os.close(server)
            yield place
        finally:
            _unmount(place)
    finally:
        if served:
            os.close(server)  # what hangs is let go with an error
