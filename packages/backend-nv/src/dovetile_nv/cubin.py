"""Reading cubins: the ELF files that hold the machine code of a GPU.

The format of the sections named .nv.info is not documented; what is read here is what NVIDIA's
own disassembler (cuobjdump -elf) shows of them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from dovetile.errors import CompileError
from dovetile_nv.boxes import TensorMap, data_name, read_maps

_ALLOCATED = 2  # SHF_ALLOC
_NOBITS, _RELA, _REL = 8, 4, 9  # section types

# Attributes of .nv.info sections.
_MAX_THREADS, _PARAM_CBANK, _REQUIRED_THREADS, _PARAM = 0x05, 0x0A, 0x10, 0x17
_FRAME_SIZE, _MIN_STACK_SIZE, _REGISTER_COUNT, _BARRIER_COUNT = 0x11, 0x12, 0x2F, 0x4C

# Relocations: all 64 bits; the lower or upper half in the second word of an instruction; and the
# target of a call, in words of 4 bytes, of which an instruction holds 8 bits at 16, the rest at 34.
_ABSOLUTE_64, _LOWER_32, _UPPER_32, _CALL = 2, 0x38, 0x39, 0x4B
_RELOCATIONS = (_ABSOLUTE_64, _LOWER_32, _UPPER_32, _CALL)

_SHARED_RESERVE = 1024  # bytes of each workgroup's shared memory that the hardware keeps


@dataclass
class Kernel:
    """What a launch must know of a kernel."""

    name: str
    code_offset: int
    """Of its first instruction in the image."""
    code_bytes: int
    registers: int
    barriers: int
    shared_bytes: int
    """Per workgroup, with what the hardware keeps of it."""
    dynamic_bytes: int
    """Those of them that a launch must ask for."""
    local_bytes: int
    """Per thread."""
    arguments_offset: int
    """Of the arguments in the first constant bank."""
    arguments_bytes: int
    bank_bytes: int
    """Size of the first constant bank."""
    threads: int
    """Per workgroup: the most that the code was compiled for, 0 where it does not say."""
    maps: tuple[tuple[int, TensorMap], ...]
    """The tensor maps among its arguments, each with its offset there."""
    target: int
    """The SM version of the code, one hexadecimal digit each for major and minor."""


@dataclass
class Cubin:
    """A cubin, laid out as it will lie in the memory of the GPU."""

    image: bytearray
    kernels: dict[str, Kernel]
    banks: dict[str, dict[int, tuple[int, int]]]
    """(offset in the image, bytes) of constant banks by kernel and number; of the first there is
    none, as each launch has its own."""
    relocations: list[tuple[int, int, int]] = field(default_factory=list)
    """(offset in the image, value's offset in the image, kind)."""

    def relocated(self, address: int) -> bytes:
        """The image for `address`."""
        image = bytearray(self.image)
        for offset, target, kind in self.relocations:
            value = address + target
            if kind == _ABSOLUTE_64:
                struct.pack_into("<Q", image, offset, value)
            elif kind == _LOWER_32:
                struct.pack_into("<I", image, offset + 4, value & 0xFFFFFFFF)
            elif kind == _UPPER_32:
                struct.pack_into("<I", image, offset + 4, value >> 32)
            else:
                instruction = int.from_bytes(image[offset : offset + 16], "little")
                instruction |= (value >> 2 & 0xFF) << 16 | (value >> 10) << 34
                image[offset : offset + 16] = instruction.to_bytes(16, "little")
        return bytes(image)


@dataclass
class _Section:
    name: str
    type: int
    flags: int
    content: bytes
    size: int
    link: int
    info: int
    alignment: int
    place: int = -1


def read(binary: bytes) -> Cubin:
    """Reads a cubin. Raises CompileError where it is none, or needs what is not supported."""
    sections = _sections(binary)
    symbols = _symbols(sections)
    image = bytearray()
    for section in sections:
        if not section.flags & _ALLOCATED or section.name.startswith(
            (".nv.shared", ".nv.constant0")
        ):
            continue
        image += bytes(-len(image) % max(section.alignment, 256))
        section.place = len(image)
        image += section.content if section.type != _NOBITS else bytes(section.size)
    # The GPU fetches instructions ahead of those it executes.
    image += bytes(1024)
    target = _target(binary)
    kernels, banks = {}, {}
    attributes = _attributes(sections, symbols)
    by_name = {section.name: section for section in sections}
    for section in sections:
        name = section.name.removeprefix(".text.")
        bank = by_name.get(f".nv.constant0.{name}")
        if name == section.name or bank is None:
            continue
        kernels[name] = _kernel(
            name,
            section,
            bank,
            by_name,
            attributes.get(name, {}),
            target,
            _dynamic_bytes(name, sections, symbols),
            read_maps(_words(data_name(name), sections, symbols)),
        )
        banks[name] = {
            int(other.name[len(".nv.constant")]): (other.place, other.size)
            for other in sections
            if other.place >= 0
            and other.name.startswith(".nv.constant")
            and other.name[len(".nv.constant") + 1 :] in ("", f".{name}")
        }
    return Cubin(image, kernels, banks, _relocations(sections, symbols))


def _sections(binary: bytes) -> list[_Section]:
    if binary[:5] != b"\x7fELF\x02" or len(binary) < 64:
        raise CompileError("[load] the binary is no cubin: it is not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", binary, 40)
    size, count, names_index = struct.unpack_from("<HHH", binary, 58)
    try:
        headers = [
            struct.unpack_from("<IIQQQQIIQQ", binary, table + i * size) for i in range(count)
        ]
        names = headers[names_index]
    except (struct.error, IndexError) as error:
        raise CompileError("[load] the cubin is cut off: its section table is missing") from error

    def name_at(offset: int) -> str:
        start = names[4] + offset
        return binary[start : binary.index(b"\0", start)].decode()

    return [
        _Section(
            name_at(header[0]),
            header[1],
            header[2],
            b"" if header[1] == _NOBITS else binary[header[4] : header[4] + header[5]],
            header[5],
            header[6],
            header[7],
            header[8],
        )
        for header in headers
    ]


def _symbols(sections: list[_Section]) -> list[tuple[str, int, int]]:
    """(name, section, value) of the symbols."""
    table = next((s for s in sections if s.name == ".symtab"), None)
    if table is None:
        return []
    names = sections[table.link].content
    found = []
    for offset in range(0, table.size, 24):
        name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", table.content, offset)
        found.append((names[name : names.index(b"\0", name)].decode(), section, value))
    return found


def _attributes(
    sections: list[_Section], symbols: list[tuple[str, int, int]]
) -> dict[str, dict[int, bytes]]:
    """Attributes by kernel and number."""
    found: dict[str, dict[int, bytes]] = {}
    for section in sections:
        if not section.name.startswith(".nv.info"):
            continue
        owner = section.name.removeprefix(".nv.info").removeprefix(".")
        position = 0
        while position + 4 <= section.size:
            kind, number, value = struct.unpack_from("<BBH", section.content, position)
            position += 4
            if kind == 4:  # the value is the size of what follows
                content = section.content[position : position + value]
                position += value
            else:
                content = struct.pack("<H", value)
            if owner and number == _PARAM:  # one for each
                content += found.get(owner, {}).get(number, b"")
            if owner:
                found.setdefault(owner, {})[number] = content
            elif len(content) == 8:  # of one kernel, named by its symbol
                symbol, amount = struct.unpack("<II", content)
                found.setdefault(symbols[symbol][0], {})[number] = struct.pack("<I", amount)
    return found


def _kernel(
    name: str,
    code: _Section,
    bank: _Section,
    sections: dict[str, _Section],
    attributes: dict[int, bytes],
    target: int,
    dynamic_bytes: int,
    maps: tuple[TensorMap, ...],
) -> Kernel:
    def number(attribute: int, default: int = 0) -> int:
        content = attributes.get(attribute)
        return default if content is None else int.from_bytes(content[:4], "little")

    offset, nbytes = struct.unpack_from("<HH", attributes.get(_PARAM_CBANK, bytes(8)), 4)
    threads = attributes.get(_REQUIRED_THREADS) or attributes.get(_MAX_THREADS) or bytes(12)
    x, y, z = struct.unpack_from("<III", threads)
    # Index, position and offset of each; the maps are the last.
    offsets = sorted(
        struct.unpack_from("<4xHH", attributes[_PARAM], at)
        for at in range(0, len(attributes.get(_PARAM, b"")), 12)
    )
    return Kernel(
        name,
        code_offset=code.place,
        code_bytes=code.size,
        registers=number(_REGISTER_COUNT),
        barriers=max(1, number(_BARRIER_COUNT) & 0xFF),
        shared_bytes=_shared_bytes(name, sections) + dynamic_bytes,
        dynamic_bytes=dynamic_bytes,
        local_bytes=max(number(_MIN_STACK_SIZE), number(_FRAME_SIZE)),
        arguments_offset=offset or bank.size,
        arguments_bytes=nbytes,
        bank_bytes=bank.size,
        threads=x * y * z,
        maps=tuple(
            (offset, m) for (_, offset), m in zip(offsets[len(offsets) - len(maps) :], maps)
        ),
        target=target,
    )


def _shared_bytes(name: str, sections: dict[str, _Section]) -> int:
    """Shared memory of a workgroup, with what the hardware reserves of it."""
    own = sections.get(f".nv.shared.{name}")
    if own is None:
        return _SHARED_RESERVE
    included = ".nv.shared.reserved.0" in sections  # as compilers do since CUDA 12
    return own.size if included else own.size + _SHARED_RESERVE


def _dynamic_bytes(name: str, sections: list[_Section], symbols: list[tuple[str, int, int]]) -> int:
    """What the data NAME_local_bytes holds: see `program_form`."""
    for symbol, index, value in symbols:
        if symbol == f"{name}_local_bytes":
            return struct.unpack_from("<I", sections[index].content, value)[0]
    return 0


def _words(name: str, sections: list[_Section], symbols: list[tuple[str, int, int]]) -> list[int]:
    """The 64-bit words of some data; none where there is no such data."""
    for symbol, index, value in symbols:
        if symbol == name:
            content = sections[index].content[value:]
            return [*struct.unpack(f"<{len(content) // 8}Q", content[: len(content) // 8 * 8])]
    return []


def _target(binary: bytes) -> int:
    """90 is 0x90: the SM version in the ELF flags, as the descriptors want it."""
    flags = struct.unpack_from("<I", binary, 48)[0]
    version = flags >> 8 & 0xFF if binary[8] >= 8 else flags & 0xFF  # by the version of the ABI
    return version // 10 << 4 | version % 10


def _relocations(
    sections: list[_Section], symbols: list[tuple[str, int, int]]
) -> list[tuple[int, int, int]]:
    found = []
    for section in sections:
        if section.type not in (_RELA, _REL) or sections[section.info].place < 0:
            continue
        place = sections[section.info].place
        size = 24 if section.type == _RELA else 16
        for position in range(0, section.size, size):
            offset, information = struct.unpack_from("<QQ", section.content, position)
            addend = (
                struct.unpack_from("<q", section.content, position + 16)[0] if size == 24 else 0
            )
            kind = information & 0xFFFFFFFF
            name, index, value = symbols[information >> 32]
            if kind not in _RELOCATIONS:
                raise CompileError(f"[load] relocation of kind {kind:#x} against {name!r}")
            if not 0 < index < len(sections) or sections[index].place < 0:
                raise CompileError(f"[load] the code needs {name!r}, which the cubin does not have")
            found.append((place + offset, sections[index].place + value + addend, kind))
    return found
