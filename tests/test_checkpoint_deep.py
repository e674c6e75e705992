"""Whole reading: each format, each kind of damage in any place, and one that changes or vanishes meanwhile."""

import math
import os
import struct
import time
from pathlib import Path

import checkpoint_files as build
import pytest

from trainguard.checkpoints import Checkpoint
from trainguard.checkpoints import deep as room
from trainguard.checkpoints.deep import DeepRead, faults_of, read_file, read_whole

ROWS, COLUMNS = 512, 96


def read(path: Path, workers: int = 1) -> DeepRead:
    return read_whole(Checkpoint(8, path), 60.0, workers)


def flip(file: Path, at: int) -> None:
    """Damage one bit."""
    with file.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 0x10]))


def in_the_middle(dtype: str, number: bytes, count: int = ROWS * COLUMNS) -> bytes:
    """Small numbers with another one two thirds through, where no sample looks."""
    width = build.WIDTH[dtype]
    data = bytearray(build.numbers(count, dtype))
    place = (count * 2 // 3 | 1) * width
    data[place : place + width] = number
    return bytes(data)


@pytest.mark.parametrize("builder", build.BUILDERS, ids=lambda builder: builder.__name__)
def test_every_whole_layout_is_read_to_its_last_byte_without_a_fault(builder, tmp_path):
    path = builder(tmp_path, 8)
    whole = read(path, workers=2)
    assert faults_of(whole) == [] and whole.problems == ()
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert whole.size == sum(file.stat().st_size for file in files)
    assert sum(file.tensors for file in whole.files) > 0 or builder is build.legacy


@pytest.mark.parametrize("builder", [build.lightning, build.nanogpt, build.numbered_file, build.fsdp_full])
def test_a_flipped_bit_in_any_tensor_breaks_a_checksum(builder, tmp_path):
    path = builder(tmp_path, 8)
    file = path if path.is_file() else path / "pytorch_model_fsdp.bin"
    before = file.read_bytes()
    place = before.index(build.weights()["model.norm.weight"].data) + 5
    flip(file, place)
    assert [fault for fault in faults_of(read(path)) if "CRC-32" in fault]


def test_a_flipped_bit_in_a_shard_of_the_distributed_checkpoint_breaks_a_checksum(tmp_path):
    path = build.dcp(tmp_path, 8)
    file = path / "__1_0.distcp"
    flip(file, file.read_bytes().index(build.Tensor(30, 30, seed=3).data) + 999)
    (fault,) = faults_of(read(path))
    assert fault.startswith("__1_0.distcp does not fit its checksum")


@pytest.mark.parametrize("dtype, bits", [
    ("F32", struct.pack("<f", math.nan)), ("F32", struct.pack("<f", math.inf)),
    ("F64", struct.pack("<d", -math.inf)), ("F16", struct.pack("<e", math.nan)),
    ("BF16", b"\x80\x7f"), ("BF16", b"\xc1\xff"),
])  # fmt: skip
def test_one_number_that_is_none_is_found_wherever_it_is(dtype, bits, tmp_path):
    path = tmp_path / "model.safetensors"
    tensor = build.Tensor(ROWS, COLUMNS, dtype=dtype, data=in_the_middle(dtype, bits))
    path.write_bytes(build.safetensors({"a": build.Tensor(3), "b": tensor, "c": build.Tensor(8)}))
    told = read_file(path, path.name, False)
    assert told.faults == ("holds NaN or infinity in 'b'",)


@pytest.mark.parametrize("dtype, width, largest", [
    ("F32", 4, struct.pack("<I", 0x7F7FFFFF)), ("F16", 2, b"\xff\x7b"), ("BF16", 2, b"\x7f\x7f"),
    ("F64", 8, struct.pack("<Q", 0x7FEFFFFFFFFFFFFF)),
])  # fmt: skip
def test_the_largest_finite_number_is_one_and_is_told(dtype, width, largest, tmp_path):
    path = tmp_path / "model.safetensors"
    tensor = build.Tensor(ROWS, COLUMNS, dtype=dtype, data=in_the_middle(dtype, largest))
    path.write_bytes(build.safetensors({"a": tensor}))
    told = read_file(path, path.name, False)
    assert told.faults == ()
    expected = {"F32": 3.4028234663852886e38, "F16": 65504.0, "BF16": 3.3895313892515355e38}
    assert told.largest == expected.get(dtype, 1.7976931348623157e308)


@pytest.mark.parametrize("dtype, byte, is_strange, value", [
    ("F8_E4M3", 0x7E, False, 448.0), ("F8_E4M3", 0x7F, True, None), ("F8_E4M3", 0xFF, True, None),
    ("F8_E5M2", 0x7B, False, 57344.0), ("F8_E5M2", 0x7C, True, None), ("F8_E5M2", 0xFD, True, None),
])  # fmt: skip
def test_the_formats_of_eight_bits_are_told_by_their_bits(dtype, byte, is_strange, value, tmp_path):
    data = bytearray(b"\x11" * 999)
    data[501] = byte
    path = tmp_path / "model.safetensors"
    path.write_bytes(build.safetensors({"a": build.Tensor(999, dtype=dtype, data=bytes(data))}))
    told = read_file(path, path.name, False)
    assert bool(told.faults) is is_strange
    assert told.largest == value or is_strange


def test_a_mask_of_minus_infinity_and_zero_is_no_fault_and_plus_infinity_in_it_is(tmp_path):
    path = tmp_path / "model.safetensors"
    mask = struct.pack("<ff", 0.0, -math.inf) * 500
    path.write_bytes(build.safetensors({"mask": build.Tensor(1000, data=mask)}))
    assert read_file(path, path.name, False).faults == ()
    path.write_bytes(build.safetensors({"mask": build.Tensor(1001, data=mask + struct.pack("<f", math.inf))}))
    assert read_file(path, path.name, False).faults != ()


def test_infinity_in_a_file_that_is_neither_weights_nor_moments_is_its_own_affair(tmp_path):
    path = tmp_path / "scheduler.pt"
    path.write_bytes(build.torch_zip({"best": build.Tensor(4, data=struct.pack("<4f", 1, 2, 3, math.inf))}))
    assert read_file(path, path.name, False).faults == ()
    assert read_file(path, path.name, True).faults != ()


@pytest.mark.parametrize("chunk", [64, 1000, 4096, 16 << 20])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
def test_a_number_that_a_chunk_cuts_in_two_is_looked_at_once_and_whole(chunk, dtype, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    names = {f"t{one}": build.Tensor(one, dtype=dtype, seed=one) for one in (1, 7, 301, 33)}
    path.write_bytes(build.torch_zip(names))
    told = read_file(path, path.name, False, bytearray(chunk))
    assert told.faults == () and told.tensors == 4
    assert told.largest is not None and 0.05 < told.largest <= 0.1001


@pytest.mark.parametrize("sixteenth", range(1, 16))
def test_a_cut_file_is_told_in_every_format(sixteenth, tmp_path):
    path = build.hugging_face(tmp_path, 8)
    for name in ("model.safetensors", "optimizer.pt"):
        whole = (path / name).read_bytes()
        (path / name).write_bytes(whole[: len(whole) * sixteenth // 16])
        assert [fault for fault in faults_of(read(path)) if fault.startswith(name)]
        (path / name).write_bytes(whole)


def test_entries_that_lie_over_each_other_are_told_and_not_read_again_and_again(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    content = bytearray(build.torch_zip({"a": build.Tensor(64), "b": build.Tensor(64, seed=2)}))
    rows = [at for at in range(len(content)) if content[at : at + 4] == b"PK\x01\x02"]
    first, second = rows[2], rows[3]
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    path.write_bytes(content)
    assert "over each other" in read_file(path, path.name, False).faults[0]


def test_what_is_written_while_it_is_read_is_no_fault_but_changed(tmp_path, monkeypatch):
    path = build.lightning(tmp_path, 8)
    look = room._Reader.read

    def write_meanwhile(reader, descriptor, size, buffer):
        flip(path, path.read_bytes().index(build.weights()["model.norm.weight"].data))
        os.utime(path, (1, 1))
        look(reader, descriptor, size, buffer)

    monkeypatch.setattr(room._Reader, "read", write_meanwhile)
    whole = read(path)
    assert whole.files[0].changed and whole.files[0].faults
    assert faults_of(whole) == []


def test_a_checkpoint_that_is_rotated_away_meanwhile_has_vanished(tmp_path):
    whole = read(tmp_path / "checkpoint-8")
    assert whole.vanished and faults_of(whole) == []


def test_a_file_that_gives_no_answer_is_a_problem_of_its_own(tmp_path, monkeypatch):
    path = build.hugging_face(tmp_path, 8)
    monkeypatch.setattr(room, "_read_files", lambda contents, share: time.sleep(60))
    whole = read_whole(Checkpoint(8, path), 0.2, 1)
    assert whole.problems == ("no answer within 0.2 s",) and not whole.vanished


def test_the_shares_are_even_and_none_is_empty(tmp_path):
    from trainguard.checkpoints.contents import list_files

    contents = list_files(Checkpoint(8, build.sharded(tmp_path, 8)))
    sizes = {file.name: file.size for file in contents.files}
    shares = room.share_out(contents, 2)
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    totals = [sum(sizes[name] for name in share) for share in shares]
    assert max(totals) - min(totals) <= max(sizes.values())
    assert len(room.share_out(contents, 1000)) == len(sizes)
