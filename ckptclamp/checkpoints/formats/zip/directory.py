"""The directory of a zip archive, read so strictly that every reader must see the same members.

Zip readers differ: some trust the central directory at the end, some the header before each member,
some take the first archive in a file and some the last. Here the members must fill the file from
its first byte to the central directory, without gap or overlap, each header must agree with the
directory, and nothing may follow the end record. Nothing is unpacked here.
"""

from __future__ import annotations

import struct
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Never
from unicodedata import normalize

from ckptclamp.errors import NotACheckpointError, RefusedError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from ckptclamp.checkpoints.source import Source

STORED = 0
DEFLATED = 8
ZIP64_EXTRA = 1
FULL32 = 0xFFFFFFFF
"""What stands in a field whose number is in the zip64 extra field."""
MAX_MEMBERS = 10_000

_MAX_DIRECTORY = 16 << 20
_END = struct.Struct("<4s4H2IH")
_END_SIGNATURE = b"PK\x05\x06"
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_ENCRYPTED = 1 << 0
_DESCRIPTOR = 1 << 3
_PATCHED = 1 << 5
_STRONGLY_ENCRYPTED = 1 << 6
_UTF8 = 1 << 11
_MASKED = 1 << 13
_REFUSED_FLAGS = _ENCRYPTED | _PATCHED | _STRONGLY_ENCRYPTED | _MASKED
_NEWEST_VERSION = 63
_UNIX_KIND = 0o170000
_UNIX_LINK = 0o120000
_UNICODE_PATH_EXTRA = 0x7075
_FULL16 = 0xFFFF


@frozen
class Entry:
    """One entry of the central directory: it begins at `entry`, and its member's header at `header`.

    Offsets and sizes are in bytes, from the start of the file; `stored` is the packed size.
    """

    name: str
    raw_name: bytes
    flags: int
    method: int
    time: int
    date: int
    crc: int
    stored: int
    size: int
    header: int
    entry: int


@frozen
class Member(Entry):
    """One member of an archive.

    Its data fill `stored` bytes from `data` on, and the next member begins at `stop`. `crc_places`
    are where its checksum is written down: in its header or data descriptor, and in the directory.
    """

    data: int
    stop: int
    crc_places: tuple[int, int]


@frozen
class Directory:
    """The members of an archive in the order of its central directory, and where that lies."""

    members: tuple[Member, ...]
    start: int
    stop: int


def read_directory(source: Source) -> Directory:
    """Read and check the directory of the archive that fills `source`.

    Raises:
        NotACheckpointError: it is no zip archive.
        RefusedError: two readers could see different members in it, or it uses what is not read
            here (encryption, methods other than stored and deflate, several disks).
    """
    return _Reader(source).read()


class _Reader:
    """One archive being read."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def refuse(self, message: str, member: str | None = None) -> Never:
        raise RefusedError(message, path=self.source.path, tensor=member)

    def read(self) -> Directory:
        count, size, start, stop = self.end_record()
        if count > MAX_MEMBERS or size > _MAX_DIRECTORY:
            self.refuse(f"holds {count} members; at most {MAX_MEMBERS} are read")
        if start + size != stop:
            self.refuse("holds bytes that belong to no member: before its directory, or after it")
        entries = self.entries(self.source.read_at(start, size), start)
        if len(entries) != count:
            self.refuse(f"announces {count} members but lists {len(entries)}")
        self.refuse_duplicates(entries)
        members = self.locate(entries, start)
        return Directory(tuple(members[entry.name] for entry in entries), start, stop)

    def end_record(self) -> tuple[int, int, int, int]:
        """Return count, size and start of the directory, and where its end records begin."""
        length = self.source.size
        tail_start = max(length - _END.size - _FULL16, 0)
        tail = self.source.read_at(tail_start, length - tail_start)
        signatures = _occurrences(tail, _END_SIGNATURE)
        found = [at for at in signatures if self.ends_file(tail[at:])]
        if not found:
            raise NotACheckpointError(
                "the zip archive has no end record at its end",
                path=self.source.path,
                hint="it is truncated, or something was appended to it",
            )
        if found[0] != signatures[-1]:
            # Some readers take the first record that fits, some the last signature.
            self.refuse("has several end records, or one in its comment")
        end = tail_start + found[0]
        numbers = _END.unpack_from(tail, found[0])
        _, disk, first_disk, here, count, size, start, _ = numbers
        locator = self.source.read_at(max(end - _END64_LOCATOR.size, 0), min(end, 20))
        if locator.startswith(b"PK\x06\x07"):
            return self.end_record64(locator, end, numbers)
        if disk or first_disk or here != count:
            self.refuse("is one of several disks")
        return count, size, start, end

    @staticmethod
    def ends_file(record: bytes) -> bool:
        return len(record) >= _END.size and _END.unpack_from(record)[-1] == len(record) - _END.size

    def end_record64(
        self, locator: bytes, end: int, short: tuple[Any, ...]
    ) -> tuple[int, int, int, int]:
        _, disk, at, disks = _END64_LOCATOR.unpack(locator)
        if disk or disks != 1 or at != end - _END64_LOCATOR.size - _END64.size:
            self.refuse("its zip64 end record is not where it should be")
        record = _END64.unpack(self.source.read_at(at, _END64.size))
        signature, size, _, _, disk, first_disk, here, count, length, start = record
        if signature != b"PK\x06\x06" or size != _END64.size - 12 or disk or first_disk:
            self.refuse("its zip64 end record is damaged")
        long = (here, count, length, start)
        fulls = (_FULL16, _FULL16, FULL32, FULL32)
        for value, narrow, full in zip(long, short[3:7], fulls, strict=True):
            if narrow not in (full, value):
                self.refuse("its two end records disagree")
        if here != count:
            self.refuse("is one of several disks")
        return count, length, start, at

    def entries(self, data: bytes, start: int) -> list[Entry]:
        entries: list[Entry] = []
        at = 0
        while at < len(data):
            if len(data) - at < _CENTRAL.size or data[at : at + 4] != b"PK\x01\x02":
                self.refuse("its central directory is damaged")
            fields = _CENTRAL.unpack_from(data, at)
            lengths = fields[10:13]
            name_at = at + _CENTRAL.size
            stop = name_at + sum(lengths)
            if stop > len(data) or len(entries) > MAX_MEMBERS:
                self.refuse("its central directory is damaged")
            raw_name = data[name_at : name_at + lengths[0]]
            extra = data[name_at + lengths[0] : name_at + lengths[0] + lengths[1]]
            entries.append(self.entry(fields, raw_name, extra, start + at))
            at = stop
        return entries

    def entry(self, fields: tuple[Any, ...], raw_name: bytes, extra: bytes, at: int) -> Entry:
        flags, method, time, date, crc, stored, size = fields[3:10]
        disk, attributes, header = fields[13], fields[15], fields[16]
        name = self.name(raw_name, flags)
        if flags & _REFUSED_FLAGS:
            self.refuse("is encrypted, or a patch", name)
        if fields[2] & 0xFF > _NEWEST_VERSION:
            self.refuse("needs a newer zip reader", name)
        if attributes >> 16 & _UNIX_KIND == _UNIX_LINK:
            self.refuse("is a symbolic link", name)
        if method not in (STORED, DEFLATED):
            self.refuse(f"is packed with method {method}; stored and deflate are read", name)
        wide = [size == FULL32, stored == FULL32, header == FULL32]
        size, stored, header = self.widen(extra, [size, stored, header], wide, name)
        if disk not in (0, _FULL16) or (method == STORED and stored != size):
            self.refuse("its directory entry makes no sense", name)
        return Entry(name, raw_name, flags, method, time, date, crc, stored, size, header, at)

    def name(self, raw: bytes, flags: int) -> str:
        try:
            name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
        except UnicodeDecodeError:
            self.refuse("a member's name is neither ASCII nor marked UTF-8", repr(raw[:200]))
        parts = name.removesuffix("/").split("/")
        if (
            any(part in ("", ".", "..") for part in parts)
            or "\\" in name
            or any(ord(char) < 32 or ord(char) == 127 for char in name)
            or (len(parts[0]) == 2 and parts[0].endswith(":"))
        ):
            self.refuse("a member's name is no plain relative path", name)
        return name

    def widen(
        self, extra: bytes, values: list[int], wide: list[bool], name: str
    ) -> tuple[int, ...]:
        """Replace the values that are `wide` by those of the zip64 extra field."""
        wanted = sum(wide)
        found: bytes | None = None
        for kind, data in self.extra_fields(extra, name):
            if kind == _UNICODE_PATH_EXTRA:
                self.refuse("has a second name in an extra field", name)
            if kind == ZIP64_EXTRA:
                if found is not None:
                    self.refuse("has two zip64 fields", name)
                found = data
        if not wanted:
            return tuple(values)
        if found is None or len(found) < 8 * wanted:
            self.refuse("its zip64 field is missing or too short", name)
        numbers = iter(struct.unpack_from(f"<{wanted}Q", found))
        return tuple(next(numbers) if w else v for v, w in zip(values, wide, strict=True))

    def extra_fields(self, extra: bytes, name: str) -> list[tuple[int, bytes]]:
        fields: list[tuple[int, bytes]] = []
        at = 0
        while len(extra) - at >= 4:
            kind, length = struct.unpack_from("<2H", extra, at)
            if at + 4 + length > len(extra):
                self.refuse("its extra fields are damaged", name)
            fields.append((kind, extra[at + 4 : at + 4 + length]))
            at += 4 + length
        if any(extra[at:]):
            self.refuse("its extra fields are damaged", name)
        return fields

    def refuse_duplicates(self, entries: list[Entry]) -> None:
        seen: set[str] = set()
        for entry in entries:
            key = normalize("NFC", entry.name.removesuffix("/"))
            if key in seen:
                self.refuse("is in the archive twice", entry.name)
            seen.add(key)

    def locate(self, entries: list[Entry], directory: int) -> dict[str, Member]:
        """Check that the members fill the file up to the directory, in some order."""
        members: dict[str, Member] = {}
        expected = 0
        ordered = sorted(entries, key=lambda entry: entry.header)
        stops = [*(entry.header for entry in ordered[1:]), directory][: len(ordered)]
        for entry, stop in zip(ordered, stops, strict=True):
            if entry.header != expected or stop <= entry.header:
                self.refuse("overlaps another member, or has bytes before it", entry.name)
            members[entry.name] = self.member(entry, stop)
            expected = stop
        if not entries and directory:
            self.refuse("holds bytes that belong to no member")
        return members

    def member(self, entry: Entry, stop: int) -> Member:
        """Compare the header before the data with the directory; return the member."""
        if stop - entry.header < _LOCAL.size:
            self.refuse("has no room for its header", entry.name)
        fields = _LOCAL.unpack(self.source.read_at(entry.header, _LOCAL.size))
        signature, _, flags, method, time, date, crc, stored, size, name_length, extra_length = (
            fields
        )
        data = entry.header + _LOCAL.size + name_length + extra_length
        if data + entry.stored > stop:
            self.refuse("its data reach into what follows", entry.name)
        rest = self.source.read_at(entry.header + _LOCAL.size, name_length + extra_length)
        known = (b"PK\x03\x04", entry.flags, entry.method, entry.time, entry.date, entry.raw_name)
        if (signature, flags, method, time, date, rest[:name_length]) != known:
            self.refuse("its header and the directory disagree", entry.name)
        size, stored = self.widen(
            rest[name_length:], [size, stored], [size == FULL32, stored == FULL32], entry.name
        )
        found = (crc, stored, size)
        expected = (entry.crc, entry.stored, entry.size)
        crc_at = entry.header + 14
        if flags & _DESCRIPTOR:
            if found not in (expected, (0, 0, 0)):
                self.refuse("its header and the directory disagree", entry.name)
            crc_at = self.descriptor(entry, data + entry.stored, stop)
        elif found != expected or data + entry.stored != stop:
            self.refuse("its header and the directory disagree", entry.name)
        return Member(**asdict(entry), data=data, stop=stop, crc_places=(crc_at, entry.entry + 16))

    def descriptor(self, entry: Entry, at: int, stop: int) -> int:
        """Check the data descriptor, which must fill the bytes up to `stop`; return its CRC's place."""
        if stop - at not in (12, 16, 20, 24):
            self.refuse("its data descriptor is missing", entry.name)
        data = self.source.read_at(at, stop - at)
        signed = len(data) in (16, 24)
        if signed and not data.startswith(_DESCRIPTOR_SIGNATURE):
            self.refuse("its data descriptor is damaged", entry.name)
        layout = "<I2Q" if len(data) in (20, 24) else "<3I"
        if struct.unpack_from(layout, data, 4 if signed else 0) != (
            entry.crc,
            entry.stored,
            entry.size,
        ):
            self.refuse("its data descriptor and the directory disagree", entry.name)
        return at + (4 if signed else 0)


def _occurrences(data: bytes, wanted: bytes) -> list[int]:
    found: list[int] = []
    at = data.find(wanted)
    while at >= 0:
        found.append(at)
        at = data.find(wanted, at + 1)
    return found
