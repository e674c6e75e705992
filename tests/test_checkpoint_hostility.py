"""What somebody laid there, or chance: judged suspect, in bounded time and memory, and never an exception."""

import io
import json
import os
import pickle
import socket
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import checkpoint_files as build
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainguard.checkpoints import Verdict, list_saves
from trainguard.checkpoints.contents import read_checkpoint
from trainguard.checkpoints.effort import Effort
from trainguard.checkpoints.judging import judge_newest
from trainguard.checkpoints.pickles import ExhaustedError, read_pickle
from trainguard.checkpoints.verdicts import FaultError

NOW = 2_000_000_000.0


def judged(folder):
    """The newest, judged within seconds and with little memory."""
    begun = time.monotonic()
    tracemalloc.start()
    try:
        judgement = judge_newest(folder, False, NOW)[0]
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 20
    return judgement


@pytest.fixture
def path(tmp_path):
    return build.sharded(tmp_path, 8)


def pickled_global(module, name, protocol):
    """A pickle that calls a function of a module with one argument."""
    if protocol < 4:
        return f"\x80\x02c{module}\n{name}\n(X\x04\x00\x00\x00trueto.".replace("to.", "tR.").encode("latin-1")
    short = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return b"\x80\x04" + short + b"\x93\x8c\x04true\x85R."


DANGERS = [
    ("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("builtins", "exec"),
    ("__builtin__", "eval"), ("builtins", "__import__"), ("runpy", "run_path"), ("importlib", "import_module"),
    ("transformers", "os.system"), ("torch", "sys.modules"), ("socket", "socket"), ("shutil", "rmtree"),
    ("torch", "os"), ("os.path", "os.system"), ("timeit", "timeit"), ("numpy", "builtins.eval"),
]  # fmt: skip


@pytest.mark.parametrize("module, name", DANGERS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_suspect_wherever_it_lies(tmp_path, module, name, protocol):
    danger = pickled_global(module, name, protocol)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("archive/data.pkl", danger)
    for content in (danger, archive.getvalue()):
        path = build.hugging_face(tmp_path, 8)
        (path / "optimizer.pt").write_bytes(content)
        judgement = judged(tmp_path)
        assert judgement.verdict is Verdict.SUSPECT
        assert "optimizer.pt would run code" in judgement.reason
    (tmp_path / "dcp").mkdir()
    (build.dcp(tmp_path / "dcp", 8) / ".metadata").write_bytes(danger)
    assert judged(tmp_path / "dcp").verdict is Verdict.SUSPECT


def test_nothing_is_ever_unpickled(tmp_path):
    trace = tmp_path / "trace"

    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {trace}",))

    path = build.hugging_face(tmp_path, 8)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (path / name).write_bytes(pickle.dumps(Bomb()))
    assert judged(tmp_path).verdict is Verdict.SUSPECT
    assert not trace.exists()


@pytest.mark.parametrize("content", [
    b"\x80\x04\x8c\x02os\x8c\x06systemN\x93.", b"\x80\x02\x82\x01.", b"\x80\x04NN\x93.",
])  # fmt: skip
def test_a_pickle_that_hides_what_it_imports_is_not_complete(tmp_path, content):
    (build.hugging_face(tmp_path, 8) / "optimizer.pt").write_bytes(content)
    assert judged(tmp_path).verdict is not Verdict.COMPLETE


def test_a_pickle_without_end_is_given_up():
    endless = b"\x80\x02" + b"N0" * 3_000_000 + b"N."
    begun = time.monotonic()
    with pytest.raises(ExhaustedError):
        read_pickle(endless, Effort())
    assert time.monotonic() - begun < 15


def test_code_in_a_pickle_too_large_to_follow_is_found(tmp_path):
    for danger in (pickled_global("posix", "system", 2), pickled_global("posix", "system", 4)):
        path = build.hugging_face(tmp_path, 8)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as target:
            target.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * 3_000_000 + danger)
        (path / "optimizer.pt").write_bytes(archive.getvalue())
        assert judge_newest(tmp_path, False, NOW)[0].verdict is Verdict.SUSPECT


@pytest.mark.parametrize("depth", [1000, 300_000])
def test_a_deeply_nested_pickle_is_harmless(depth):
    for content in (b"\x80\x02N" + b"\x85" * depth + b".", b"\x80\x02]" + b"]" * depth + b"a" * depth + b"."):
        read_pickle(content, Effort())


@pytest.mark.parametrize("name", ["/etc/passwd", "../checkpoint-4/model.safetensors", "..", ".", "", "a\0b",
                                  "..\\x.safetensors", "config.json"])  # fmt: skip
def test_an_index_that_leads_elsewhere_is_suspect(path, name):
    index = {"weight_map": {"w": name, "v": "model-00001-of-00003.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    judgement = judged(path.parent)
    assert judgement.verdict is Verdict.SUSPECT
    assert "model.safetensors.index.json names" in judgement.reason


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.distcp", ".."])
def test_metadata_that_leads_elsewhere_is_suspect(tmp_path, name):
    path = build.dcp(tmp_path, 8)
    info = build.Made(
        build.Named("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        {"relative_path": name, "offset": 0, "length": 10},
    )
    metadata = build.Made(build.Named("torch.distributed.checkpoint.metadata", "Metadata"), {"a": info})
    (path / ".metadata").write_bytes(build.pickled(metadata, 4))
    assert judged(tmp_path).verdict is Verdict.SUSPECT


@pytest.mark.parametrize("length", [25_000_001, 1 << 40, (1 << 64) - 1])
def test_a_giant_header_is_suspect(path, length):
    (path / "model-00001-of-00003.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    assert judged(path.parent).verdict is Verdict.SUSPECT


@pytest.mark.parametrize("content", [
    b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'{"a": 1' + b"0" * 100_000 + b"}",
    b'{"a":{"dtype":"F32","shape":[1000000000000,1000000000000],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[99999999999999999999999,4]}}',
    b'{"a":{"dtype":"F32","shape":[0,99999999999],"data_offsets":[0,0]}}',
    b"{}", b"null", b"\xff\xfe", b'{"\xff":1}',
])  # fmt: skip
def test_a_strange_header_is_never_complete_nor_an_error(path, content):
    header = len(content).to_bytes(8, "little") + content
    for file in path.glob("*.safetensors"):
        file.write_bytes(header + b"1234")
    assert judged(path.parent).verdict in (Verdict.SUSPECT, Verdict.INCOMPLETE)


@pytest.mark.parametrize("name", ["trainer_state.json", "config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", [
    b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"\0" * 5000,
    b"{" + b"\0" * (5 << 20), b'{"global_step": 1e999}', b'{"global_step": -8}', b'{"global_step": "8"}',
])  # fmt: skip
def test_strange_json_is_never_an_error(path, name, content):
    (path / name).write_bytes(content)
    assert judged(path.parent).verdict is not Verdict.COMPLETE or name == "config.json"


def bomb():
    """A zip whose pickle would be a gigabyte."""
    archive = io.BytesIO()
    with (
        zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target,
        target.open("archive/data.pkl", "w") as file,
    ):
        for _ in range(64):
            file.write(bytes(1 << 20))
    return archive.getvalue()


def test_a_zip_bomb_is_suspect(path):
    (path / "optimizer.pt").write_bytes(bomb())
    assert judged(path.parent).verdict is Verdict.SUSPECT


def end_record(count=1, size=46, offset=0):
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, 0)


@pytest.mark.parametrize("content", [
    b"PK\3\4" + end_record(65535, 0xFFFFFFFF, 0),
    b"PK\3\4" + bytes(100) + end_record(1, 46, 58),
    b"PK\3\4" + struct.pack("<4sLQL", b"PK\6\7", 0, 1 << 62, 1) + end_record(),
    b"PK\3\4" + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 60, 1 << 60, 1 << 60, 0)
    + struct.pack("<4sLQL", b"PK\6\7", 0, 4, 1) + end_record(),
    end_record(0, 0, 0), b"PK\3\4" + end_record(0, 0, 4), b"PK", b"P", b"PK\3\4" * 20_000,
])  # fmt: skip
def test_a_strange_zip_is_never_complete_nor_an_error(path, content):
    (path / "optimizer.pt").write_bytes(content)
    assert judged(path.parent).verdict in (Verdict.SUSPECT, Verdict.INCOMPLETE)


def test_a_storage_that_has_another_size_than_the_pickle_tells_is_suspect(path):
    content = build.torch_zip({"w": build.Tensor(10, 10)})
    short = build.torch_zip({"w": build.Tensor(10, 10, data=build.numbers(50))})
    assert len(content) > len(short)
    (path / "optimizer.pt").write_bytes(short)
    assert judged(path.parent).verdict is Verdict.SUSPECT


@pytest.mark.parametrize("name", ["model-00001-of-00003.safetensors", "extra.pt", "notes"])
def test_a_fifo_a_socket_or_a_loop_in_place_of_a_file_is_suspect(path, name):
    target = path / name
    target.unlink(missing_ok=True)
    os.mkfifo(target)
    assert judged(path.parent).verdict is Verdict.SUSPECT
    target.unlink()
    target.symlink_to(name)
    assert judged(path.parent).verdict is Verdict.SUSPECT
    target.unlink()
    target.symlink_to("/dev/zero")
    assert judged(path.parent).verdict is Verdict.SUSPECT
    target.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path)
        try:
            server.bind(name[:90])
        finally:
            os.chdir(here)
        assert judged(path.parent).verdict is Verdict.SUSPECT


def test_a_fifo_in_place_of_a_single_file_is_suspect(tmp_path):
    os.mkfifo(tmp_path / "ckpt.pt")
    assert judged(tmp_path).verdict is Verdict.SUSPECT
    (tmp_path / "last.ckpt").symlink_to("last.ckpt")
    assert all(one.verdict is not Verdict.COMPLETE for one in judge_newest(tmp_path, False, NOW))


def test_folders_that_lead_in_circles_are_not_followed(path):
    (path / "inner").mkdir()
    (path / "inner" / "up").symlink_to(path)
    (path / "loop").symlink_to(path)
    assert judged(path.parent).verdict is Verdict.COMPLETE


def test_thousands_of_files_are_given_up(path):
    for number in range(10_001):
        (path / f"file-{number}").touch()
    assert judged(path.parent).verdict is Verdict.SUSPECT


def test_names_that_cannot_be_shown_are_escaped(path):
    Path(os.fsdecode(os.fsencode(path) + b"/\xff\x1b[31m\n.safetensors")).write_bytes(b"")
    judgement = judged(path.parent)
    assert judgement.verdict is Verdict.INCOMPLETE
    assert judgement.reason.isprintable() and judgement.reason.isascii()


def test_a_file_that_may_not_be_read_is_suspect(path, monkeypatch):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (path / "optimizer.pt").chmod(0)
    assert judged(path.parent).verdict is Verdict.SUSPECT


SETTINGS = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
KINDS = st.sampled_from(
    [build.sharded, build.legacy, build.fsdp_sharded, build.nanogpt, build.hugging_face_deepspeed]
)


@SETTINGS
@given(kind=KINDS, choice=st.integers(0, 99), content=st.binary(max_size=400), head=st.sampled_from(
    [b"", b"PK\3\4", b"\x80\2", b"\x80\4\x95", b"{", b"[", bytes(8), b"\x10\0\0\0\0\0\0\0{"]))  # fmt: skip
def test_random_bytes_in_any_file_never_pass_and_never_raise(tmp_path_factory, kind, choice, content, head):
    folder = tmp_path_factory.mktemp("run")
    path = kind(folder, 8)
    files = sorted(file for file in path.rglob("*") if file.is_file()) or [path]
    file = files[choice % len(files)]
    file.write_bytes(head + content)
    verdict = judge_newest(folder, False, NOW)[0].verdict
    # A pickle or a JSON object may come about by chance, and a config may say anything.
    if file.suffix in (".safetensors", ".distcp") or file.name in (".metadata", "pytorch_model.bin"):
        assert verdict is not Verdict.COMPLETE


@SETTINGS
@given(kind=KINDS, choice=st.integers(0, 99), share=st.floats(0, 1, exclude_max=True))
def test_random_truncations_never_pass_and_never_raise(tmp_path_factory, kind, choice, share):
    folder = tmp_path_factory.mktemp("run")
    path = kind(folder, 8)
    files = sorted(file for file in path.rglob("*") if file.is_file()) or [path]
    file = files[choice % len(files)]
    content = file.read_bytes()
    part = content[: int(len(content) * share)]
    file.write_bytes(part)
    # Without its last line's end a text is as good.
    if part.rstrip() == content.rstrip():
        return
    assert judge_newest(folder, False, NOW)[0].verdict in (Verdict.INCOMPLETE, Verdict.SUSPECT)


@SETTINGS
@given(kind=KINDS, choice=st.integers(0, 99), at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_any_changed_byte_never_raises(tmp_path_factory, kind, choice, at, byte):
    folder = tmp_path_factory.mktemp("run")
    path = kind(folder, 8)
    files = sorted(file for file in path.rglob("*") if file.is_file()) or [path]
    content = bytearray(files[choice % len(files)].read_bytes())
    content[int(len(content) * at)] = byte
    files[choice % len(files)].write_bytes(content)
    for save in list_saves(folder):
        read_checkpoint(save)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_followed_as_a_pickle_without_an_error(content):
    for start in (b"", b"\x80\2", b"\x80\4"):
        try:
            read_pickle(start + content, Effort())
        except (FaultError, ExhaustedError):
            continue
