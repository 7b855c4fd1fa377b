"""NumPy's archives: read and patched in place, with headers that are data and never evaluated."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ckptclamp.checkpoints.formats.zip.directory import read_directory
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.source import Limits, Source
from ckptclamp.checkpoints.tensor import Unreadable
from ckptclamp.errors import CkptclampError, NotWrittenError, RefusedError, UnreadableError
from tests.checkpoints.contract import Arrays, CheckpointContract, assert_same, whole
from tests.checkpoints.zip_files import archive


def npy(array: NDArray[Any], version: tuple[int, int] | None = None) -> bytes:
    """An ``.npy`` file as NumPy writes it."""
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version)
    return out.getvalue()


def framed(header: str, data: bytes = bytes(24), version: bytes = b"\1\0") -> bytes:
    """An ``.npy`` file with this header, whatever it says."""
    layout = "<H" if version == b"\1\0" else "<I"
    return b"\x93NUMPY" + version + struct.pack(layout, len(header)) + header.encode() + data


def header(shape: str = "(2, 3)", descr: str = "'<f4'", fortran: str = "False") -> str:
    """What NumPy writes before an array."""
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}   \n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test puts its archive."""
    return tmp_path / "m.npz"


class TestNpz(CheckpointContract):
    """As `numpy.savez` writes it; NumPy would lose the names of dtypes that are not its own."""

    def arrays(self) -> Arrays:
        numbers = {n: a for n, a in super().arrays().items() if a.dtype.kind in "fiubc"}
        names = ("float16", "float64", "int8", "uint64", "bool", "complex64", ">f4", ">i8")
        return numbers | {f"of/{n}": np.arange(6).reshape(2, 3).astype(n) for n in names}

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = directory / "model.npz"
        np.savez(path, **dict[str, Any](arrays))
        return path

    def bookkeeping(self, path: Path) -> set[int]:
        """The two places of each checksum."""
        source = Source.open(path)
        members = read_directory(source).members
        source.close()
        return {p + byte for member in members for p in member.crc_places for byte in range(4)}


class TestNpzByAnotherWriter(TestNpz):
    """Data descriptors and every version of the array format."""

    def make(self, directory: Path, arrays: Arrays) -> Path:
        versions = ((1, 0), (2, 0), (3, 0))
        path = directory / "model.npz"
        members = {f"{n}.npy": npy(a, versions[i % 3]) for i, (n, a) in enumerate(arrays.items())}
        path.write_bytes(archive(members, streamed=True))
        return path


def test_deflated_arrays_are_read_and_not_copied(path: Path):
    """`numpy.savez_compressed` can be audited; a copy is refused before anything is measured."""
    arrays: dict[str, Any] = {
        "w": np.arange(600, dtype="f4").reshape(20, 30),
        "b": np.ones(3, ">f8"),
    }
    np.savez_compressed(path, **arrays)
    with open_checkpoint(path) as checkpoint:
        assert [source.path for source in checkpoint.files] == [path]
        checkpoint.verify_integrity()
        for name, array in arrays.items():
            assert_same(checkpoint.read(*whole(checkpoint, name)), array)
        with pytest.raises(NotWrittenError, match=r"deflated.*numpy\.savez"):
            checkpoint.check_copyable()


def test_a_deflated_array_beside_a_stored_one(path: Path):
    """Each is read where it is."""
    arrays = {"a": np.arange(300, dtype="f4"), "b": -np.ones(7), "c": np.zeros(400)}
    with zipfile.ZipFile(path, "w") as target:
        for name, array in arrays.items():
            method = zipfile.ZIP_STORED if name == "b" else zipfile.ZIP_DEFLATED
            target.writestr(f"{name}.npy", npy(array), method)
    with open_checkpoint(path) as checkpoint:
        for name, array in arrays.items():
            assert_same(checkpoint.read(*whole(checkpoint, name)), array)


def test_arrays_whose_axes_have_one_order(path: Path):
    """A vector, a row and a column are the same bytes in either order."""
    for shape in ("(6,)", "(1, 6)", "(6, 1)"):
        path.write_bytes(archive({"w.npy": framed(header(shape, fortran="True"))}))
        with open_checkpoint(path) as checkpoint:
            assert not np.any(checkpoint.read(*whole(checkpoint, "w")))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((3, 4), order="F"), "Fortran order: save numpy.ascontiguousarray"),
        (np.ones(3, ml_dtypes.bfloat16), "save as safetensors"),
        (np.ones(3, ml_dtypes.float8_e4m3fn), "save as safetensors"),
        (np.ones(3, np.complex128), "'<c16' cannot be read"),
        (np.array(["cat", "dog"]), "'<U3' cannot be read"),
        (np.zeros(2, "datetime64[s]"), "cannot be read"),
        (np.zeros(2, [("mean", "f4"), ("scale", "f4")]), "'mean'.* cannot be read"),
    ],
)
def test_what_can_be_named_but_not_read(path: Path, array: NDArray[Any], reason: str):
    """The other arrays of such an archive can be judged; this one says why it cannot."""
    np.savez(path, w=array, b=np.ones(3))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors["w"].shape == array.shape
        assert isinstance(checkpoint.tensors["w"].storage, Unreadable)
        with pytest.raises(UnreadableError, match=reason):
            checkpoint.read(*whole(checkpoint, "w"))
        assert_same(checkpoint.read(*whole(checkpoint, "b")), np.ones(3))


BAD_HEADERS = {
    "a longer shape": (framed(header("(3, 3)")), "does not fill 24"),
    "a shorter shape": (framed(header("(1, 3)")), "does not fill 24"),
    "a huge shape": (framed(header("(4611686018427387904, 4, 6)")), "does not fill"),
    "a negative extent": (framed(header("(-2, -3)")), "not as NumPy writes"),
    "no tuple": (framed(header("(6)")), "not as NumPy writes"),
    "many axes": (framed(header("(" + "1, " * 64 + "6)")), "has 65 axes"),
    "an octal extent": (framed(header("(02, 3)")), "not as NumPy writes"),
    "a call": (framed(header("(__import__('os').abort(), 3)")), "not as NumPy writes"),
    "a call for a dtype": (framed(header(descr="str(1)")), "not as NumPy writes"),
    "nesting": (framed("(" * 5000), "not as NumPy writes"),
    "a key twice": (framed(header()[:-5] + "'shape': (6,), }\n"), "not as NumPy writes"),
    "bytes after it": (framed(header() + "1\n"), "not as NumPy writes"),
    "no end of line": (framed(header().strip()), "not as NumPy writes"),
    "a long header": (framed(header() + " " * 10_000), "announces a header of"),
    "a header that is cut": (framed(header(), b"")[:-9], "announces a header of"),
    "a header of 4 GiB": (b"\x93NUMPY\2\0" + b"\xff" * 40, "announces a header of"),
    "another version": (framed(header(), version=b"\4\0"), "version 1 to 3"),
    "no magic": (b"w" * 64, "version 1 to 3"),
    "nothing": (b"", "version 1 to 3"),
    "a raw pickle": (b"\x80\x04N.", "version 1 to 3"),
    "objects": (npy(np.array([{}, None], object)), "pickled, and never unpickled"),
    "objects of old": (framed(header(descr="'|O4'")), "pickled"),
    "objects by name": (framed(header(descr="'object'")), "pickled"),
    "an object in a record": (
        npy(np.zeros(2, [("a", "f4"), ("b", "O")])),
        "pickled",
    ),
}


@pytest.mark.parametrize("what", BAD_HEADERS)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bad_arrays(path: Path, what: str, method: int):
    """One line names the member and what is wrong with it; nothing is evaluated."""
    content, reason = BAD_HEADERS[what]
    path.write_bytes(archive({"a.npy": npy(np.ones(2)), "w.npy": content}, method=method))
    with pytest.raises(RefusedError, match=reason) as caught:
        open_checkpoint(path)
    assert caught.value.tensor == "w.npy"
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("array", [np.arange(12.0).reshape(3, 4), np.arange(12, dtype=">i2")])
def test_what_is_read_is_what_numpy_reads(path: Path, array: NDArray[Any]):
    """With any byte of a header changed, an array is refused, or NumPy gives the same."""
    content, accepted = npy(array), 0
    for place in range(len(content) - array.nbytes):
        for byte in b"(),' \n<>|1248fib":
            changed = content[:place] + bytes([byte]) + content[place + 1 :]
            path.write_bytes(archive({"w.npy": changed}))
            try:
                with open_checkpoint(path) as checkpoint:
                    ours = checkpoint.read(*whole(checkpoint, "w"))
            except CkptclampError:
                continue
            accepted += changed != content
            with np.load(path) as theirs:
                assert_same(ours, theirs["w"])
    assert accepted


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["w.npy", "notes.txt"], r"is no \.npy file"),
        (["w.npy", "w"], "either may be meant"),
        (["w.npy", "w.npy.npy"], "either may be meant"),
        (["w.npy", "config.json"], "is no .npy file"),
        (["w.npy", "../w.npy"], "plain relative"),
        (["w.npy", "é.npy", "e\u0301.npy"], "twice"),
        ([".npy"], "1 to 1024 characters"),
        (["w" * 1025 + ".npy"], "1 to 1024 characters"),
    ],
)
def test_names_of_two_meanings(path: Path, names: list[str], reason: str):
    """What `numpy.load` would give by two names, or as something else, is refused."""
    path.write_bytes(archive({name: npy(np.ones(2)) for name in names}))
    with pytest.raises(RefusedError, match=reason):
        open_checkpoint(path)


def test_members_that_share_a_name(path: Path):
    """The second of the two is what NumPy would load."""
    data = archive({"w.npy": npy(np.ones(2)), "v.npy": npy(np.full(2, 9.0))})
    path.write_bytes(data.replace(b"v.npy", b"w.npy"))
    with pytest.raises(RefusedError, match="twice"):
        open_checkpoint(path)


def test_members_that_share_their_bytes(path: Path):
    """Entries of the directory that lead to one member do not count it twice."""
    data = bytearray(archive({"v.npy": npy(np.ones(2)), "w.npy": npy(np.ones(2))}))
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(RefusedError, match="overlaps"):
        open_checkpoint(path)


def test_bomb(path: Path):
    """Zeros that unpack to a thousand times their size are not unpacked, unless that is meant."""
    np.savez_compressed(path, w=np.zeros(80 << 17))
    with pytest.raises(RefusedError, match="--expansion-limit"):
        open_checkpoint(path)
    with open_checkpoint(path, limits=Limits(expansion=2000)) as checkpoint:
        assert checkpoint.tensors["w"].shape == (80 << 17,)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage(path: Path, save: Any):
    """Cut at any place, or with a bit flipped in a weight, it is refused, and never read wrongly."""
    save(path, w=np.arange(200.0), b=np.ones(3))
    data = path.read_bytes()
    for end in range(4, len(data), 97):
        path.write_bytes(data[:end])
        with pytest.raises(CkptclampError):
            open_checkpoint(path)
    flipped = bytearray(data)
    flipped[400] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(UnreadableError, match=r"w\.npy.*(checksum|inflated|deflated|length)"):
        verified(path)


def verified(path: Path) -> None:
    """Open an archive and check it as an audit does."""
    with open_checkpoint(path) as checkpoint:
        checkpoint.verify_integrity()


def test_names_of_the_file(path: Path):
    """The bytes decide what it is; a single array has no name, and says how to get one."""
    np.savez(path, w=np.ones(2))
    other = path.with_suffix(".keras")
    other.write_bytes(path.read_bytes())
    for file, notes in ((path, ()), (other, ("named .keras but holds a NumPy archive",))):
        with open_checkpoint(file) as checkpoint:
            assert (checkpoint.format, checkpoint.notes) == ("npz", notes)
            assert checkpoint.producer is None
