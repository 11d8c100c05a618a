"""Loads relocatable ELF objects, as LLVM and clang write them, into executable memory.

Made for kernels: no dynamic symbols beyond a few functions of the C library, no thread-local
data, no constructors. Loading takes about a hundred microseconds and needs no linker.

Formats: System V ABI, chapters 4 and 5; its x86-64 and its AArch64 supplements for relocations.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from dovetile.errors import CompileError
from dovetile_cpu import memory_map
from dovetile_cpu.relocations import RELOCATORS, Relocator

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_RELOCATABLE = 1
_SYMBOL_TABLE, _RELA, _NO_BITS, _REL = 2, 4, 8, 9
_ALLOCATED, _EXECUTABLE = 0x2, 0x4
_UNDEFINED, _ABSOLUTE = 0, 0xFFF1
_FUNCTION = 2
_UNWIND = ".eh_frame"


class _Section:
    __slots__ = ("alignment", "flags", "info", "link", "name", "offset", "size", "type")

    def __init__(self, content: bytes, offset: int) -> None:
        fields = _SECTION.unpack_from(content, offset)
        self.name, self.type, self.flags, _, self.offset, self.size = fields[:6]
        self.link, self.info, self.alignment, _ = fields[6:]


class _Symbol:
    __slots__ = ("name", "section", "type", "value")

    def __init__(self, name: str, type: int, section: int, value: int) -> None:
        self.name, self.type, self.section, self.value = name, type, section, value


class LoadedObject:
    """Machine code in memory: one executable part, and one for data.

    Args:
        functions: address of each function that the object defines for others.
    """

    def __init__(self, address: int, nbytes: int, functions: dict[str, int]) -> None:
        self.address = address
        self.nbytes = nbytes
        self.functions = functions

    def unload(self) -> None:
        """Give the memory back. The functions must not run any more."""
        if self.nbytes:
            memory_map.unmap_memory(self.address, self.nbytes)
            self.nbytes = 0
            self.functions.clear()


def load_object(
    content: bytes, resolve: Callable[[str], int | None] = memory_map.function_address
) -> LoadedObject:
    """Put an object file's code and data into memory, and connect them.

    Args:
        content: the ELF file, of type "relocatable".
        resolve: gives the address of a function that the object uses but does not define.

    Raises CompileError where the file is damaged, or needs something that is not supported.
    """
    try:
        return _Loader(content, resolve).load()
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise CompileError(f"[load] the object file is damaged: {error}") from error


class _Loader:
    def __init__(self, content: bytes, resolve: Callable[[str], int | None]) -> None:
        self.content = content
        self.resolve = resolve
        self.address = 0  # of the image
        self.image = bytearray()
        self.sections: list[_Section] = []
        self.symbols: list[_Symbol] = []
        self.names = 0  # file offset of the section names
        self.places: dict[int, int] = {}  # section number -> offset in the image
        self.stubs: dict[int, int] = {}  # target address -> address of a jump to it
        self.next_stub = 0
        self.words: dict[int, int] = {}  # target address -> address of a word that holds it
        self.next_word = 0

    def load(self) -> LoadedObject:
        self.relocator = self._read_file()
        code_size = self._place_sections()
        size = memory_map.round_to_pages(len(self.image))
        self.address = memory_map.map_memory(size, code=True)
        try:
            for section in self.sections:
                if section.type in (_REL, _RELA) and section.info in self.places:
                    self._relocate(section)
            memory_map.write_code(self.address, bytes(self.image))
            memory_map.make_executable(self.address, code_size)
        except BaseException:
            memory_map.unmap_memory(self.address, size)
            raise
        functions = {
            symbol.name: self.address + self.places[symbol.section] + symbol.value
            for symbol in self.symbols
            if symbol.type == _FUNCTION and symbol.section in self.places
        }
        return LoadedObject(self.address, size, functions)

    def _read_file(self) -> type[Relocator]:
        header = _HEADER.unpack_from(self.content)
        if header[0][:6] != b"\x7fELF\x02\x01" or header[1] != _RELOCATABLE:
            raise CompileError("[load] the file is not a 64-bit relocatable ELF object")
        relocator = RELOCATORS.get(header[2])
        if relocator is None:
            raise CompileError(f"[load] ELF machine {header[2]}; known are {sorted(RELOCATORS)}")
        self.sections = [
            _Section(self.content, header[6] + i * _SECTION.size) for i in range(header[12])
        ]
        self.names = self.sections[header[13]].offset
        for section in self.sections:
            if section.type == _SYMBOL_TABLE:
                names = self.sections[section.link].offset
                for offset in range(section.offset, section.offset + section.size, _SYMBOL.size):
                    name, info, _, index, value, _ = _SYMBOL.unpack_from(self.content, offset)
                    self.symbols.append(_Symbol(self._text(names + name), info & 15, index, value))
        return relocator

    def _text(self, offset: int) -> str:
        return self.content[offset : self.content.index(b"\0", offset)].decode()

    def _place_sections(self) -> int:
        """Lay out code and jump stubs, then, on pages of their own, data and address words.

        Returns the size of the first part, which becomes executable and read-only.
        """
        targets = sum(symbol.section == _UNDEFINED for symbol in self.symbols)
        self._place([i for i, s in enumerate(self.sections) if s.flags & _EXECUTABLE])
        self.next_stub = self._reserve(16, targets * self.relocator.STUB_SIZE)
        code_size = self._reserve(memory_map.PAGE, 0)
        self._place([i for i, s in enumerate(self.sections) if not s.flags & _EXECUTABLE])
        self.next_word = self._reserve(8, 8 * len(self.symbols))
        return code_size

    def _reserve(self, alignment: int, size: int) -> int:
        self.image.extend(bytes(-len(self.image) % max(alignment, 1)))
        offset = len(self.image)
        self.image.extend(bytes(size))
        return offset

    def _place(self, numbers: list[int]) -> None:
        for number in numbers:
            section = self.sections[number]
            # Unwinding tables are of no use: kernels do not throw.
            if not section.flags & _ALLOCATED or self._text(self.names + section.name) == _UNWIND:
                continue
            offset = self.places[number] = self._reserve(section.alignment, section.size)
            if section.type != _NO_BITS:
                end = section.offset + section.size
                self.image[offset : offset + section.size] = self.content[section.offset : end]

    def _relocate(self, section: _Section) -> None:
        if section.type == _REL:
            raise CompileError("[load] relocations without addends; 64-bit targets have them")
        base = self.places[section.info]
        for offset in range(section.offset, section.offset + section.size, _RELOCATION.size):
            place, info, addend = _RELOCATION.unpack_from(self.content, offset)
            target = self._symbol_address(self.symbols[info >> 32])
            self.relocator.apply(self, base + place, info & 0xFFFFFFFF, target, addend)

    def _symbol_address(self, symbol: _Symbol) -> int:
        if symbol.section == _UNDEFINED:
            address = self.resolve(symbol.name)
            if address is None:
                raise CompileError(
                    f"[load] the object uses {symbol.name!r}, which the C library does not have; "
                    "a kernel may use only its own functions and a few of the C library"
                )
            return address
        if symbol.section == _ABSOLUTE:
            return symbol.value
        if symbol.section not in self.places:
            raise CompileError(
                f"[load] symbol {symbol.name!r} lies in a section that is not loaded"
            )
        return self.address + self.places[symbol.section] + symbol.value

    def stub(self, target: int) -> int:
        """Address of a jump to `target`, near the code: calls reach only so far."""
        if target not in self.stubs:
            code = self.relocator.stub_code(target)
            self.image[self.next_stub : self.next_stub + len(code)] = code
            self.stubs[target] = self.address + self.next_stub
            self.next_stub += self.relocator.STUB_SIZE
        return self.stubs[target]

    def word(self, target: int) -> int:
        """Address of a word that holds `target` (the object's global offset table)."""
        if target not in self.words:
            struct.pack_into("<Q", self.image, self.next_word, target)
            self.words[target] = self.address + self.next_word
            self.next_word += 8
        return self.words[target]
