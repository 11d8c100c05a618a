"""Commands of a channel as words: methods of its engines with their data."""

from __future__ import annotations

from dovetile_nv.raw import hardware as hw
from dovetile_nv.raw.structure import bits

# The engines that the channel's subchannels are bound to. Methods below 0x100 are the channel's
# own, on every subchannel.
COMPUTE = 1
COPY = 4

_RELEASE = (
    hw.NVC86F_SEM_EXECUTE_OPERATION_RELEASE
    | bits(hw.NVC86F_SEM_EXECUTE_RELEASE_WFI, hw.NVC56F_SEM_EXECUTE_RELEASE_WFI_EN)
    | bits(hw.NVC86F_SEM_EXECUTE_PAYLOAD_SIZE, hw.NVC56F_SEM_EXECUTE_PAYLOAD_SIZE_64BIT)
)
_RELEASE_TIME = _RELEASE | bits(
    hw.NVC86F_SEM_EXECUTE_RELEASE_TIMESTAMP, hw.NVC56F_SEM_EXECUTE_RELEASE_TIMESTAMP_EN
)
_ACQUIRE = (
    hw.NVC56F_SEM_EXECUTE_OPERATION_ACQ_STRICT_GEQ
    | bits(hw.NVC86F_SEM_EXECUTE_ACQUIRE_SWITCH_TSG, 1)
    | bits(hw.NVC86F_SEM_EXECUTE_PAYLOAD_SIZE, hw.NVC56F_SEM_EXECUTE_PAYLOAD_SIZE_64BIT)
)
_COPY = (
    bits(
        hw.NVC8B5_LAUNCH_DMA_DATA_TRANSFER_TYPE,
        hw.NVC8B5_LAUNCH_DMA_DATA_TRANSFER_TYPE_NON_PIPELINED,
    )
    | bits(hw.NVC8B5_LAUNCH_DMA_FLUSH_ENABLE, 1)
    | bits(hw.NVC8B5_LAUNCH_DMA_SRC_MEMORY_LAYOUT, 1)
    | bits(hw.NVC8B5_LAUNCH_DMA_DST_MEMORY_LAYOUT, 1)
)
LARGEST_COPY = 1 << 31
"""Bytes in one command of the copy engine."""


def method(subchannel: int, address: int, *data: int) -> list[int]:
    """Data for consecutive methods from `address` on."""
    opcode = hw.NVC56F_DMA_INCR_OPCODE_VALUE
    return [opcode << 29 | len(data) << 16 | subchannel << 13 | address >> 2, *data]


_LAUNCH_ADDRESS = method(COMPUTE, hw.NVCBC0_SEND_PCAS_A, 0)[0]
_LAUNCH_ACTION = method(
    COMPUTE,
    hw.NVCBC0_SEND_SIGNALING_PCAS2_B,
    hw.NVCBC0_SEND_SIGNALING_PCAS2_B_PCAS_ACTION_PREFETCH_SCHEDULE,
)


def halves(value: int) -> tuple[int, int]:
    """(upper, lower) 32 bits."""
    return value >> 32 & 0xFFFFFFFF, value & 0xFFFFFFFF


def bind(subchannel: int, class_number: int) -> list[int]:
    """Binds an engine's class to a subchannel."""
    return method(subchannel, hw.NVCBC0_SET_OBJECT, class_number)


_SEMAPHORE = method(0, hw.NVC86F_SEM_ADDR_LO, 0, 0, 0, 0, 0)[0]


def _semaphore(address: int, value: int, execute: int) -> list[int]:
    low = 0xFFFFFFFF
    return [_SEMAPHORE, address & low, address >> 32, value & low, value >> 32, execute]


def write(address: int, value: int) -> list[int]:
    """Writes 64 bits, once everything before is complete and seen by all."""
    return _semaphore(address, value, _RELEASE)


def write_time(address: int) -> list[int]:
    """Writes zero, and behind it the time in nanoseconds, once everything before is complete.

    The address must be a multiple of 16.
    """
    return _semaphore(address, 0, _RELEASE_TIME)


def wait(address: int, value: int) -> list[int]:
    """Holds what follows until the 64 bits at `address` are at least `value`."""
    return _semaphore(address, value, _ACQUIRE)


def wait_for_idle() -> list[int]:
    """Holds what follows until all launches before are complete."""
    return method(COMPUTE, hw.NVCBC0_WAIT_FOR_IDLE, 0)


def wait_for_all() -> list[int]:
    """Holds what follows until launches and copies before are complete."""
    return method(0, hw.NVC86F_WFI, hw.NVC86F_WFI_SCOPE_ALL)


def copy(destination: int, source: int, nbytes: int) -> list[int]:
    """Copies through the copy engine."""
    words: list[int] = []
    for start in range(0, nbytes, LARGEST_COPY):
        words += method(
            COPY, hw.NVC8B5_OFFSET_IN_UPPER, *halves(source + start), *halves(destination + start)
        )
        words += method(COPY, hw.NVC8B5_LINE_LENGTH_IN, min(nbytes - start, LARGEST_COPY))
        words += method(COPY, hw.NVC8B5_LAUNCH_DMA, _COPY)
    return words


def launch(descriptor: int) -> list[int]:
    """Starts the kernel of a launch descriptor; does not wait for it."""
    return [_LAUNCH_ADDRESS, descriptor >> 8, *_LAUNCH_ACTION]


def invalidate_caches() -> list[int]:
    """Forgets instructions, constants and data that the SMs have cached."""
    return method(
        COMPUTE,
        hw.NVCBC0_INVALIDATE_SHADER_CACHES_NO_WFI,
        bits(hw.NVCBC0_INVALIDATE_SHADER_CACHES_NO_WFI_INSTRUCTION, 1)
        | bits(hw.NVCBC0_INVALIDATE_SHADER_CACHES_NO_WFI_GLOBAL_DATA, 1)
        | bits(hw.NVCBC0_INVALIDATE_SHADER_CACHES_NO_WFI_CONSTANT, 1),
    )


def windows(shared: int, local: int) -> list[int]:
    """Where generic addresses mean shared and local memory."""
    return [
        *method(COMPUTE, hw.NVCBC0_SET_SHADER_SHARED_MEMORY_WINDOW_A, *halves(shared)),
        *method(COMPUTE, hw.NVCBC0_SET_SHADER_LOCAL_MEMORY_WINDOW_A, *halves(local)),
    ]


def local_memory(address: int, processor_pair_bytes: int) -> list[int]:
    """Where the threads' local memory lies, with its size for each pair of processors (TPC)."""
    return [
        *method(COMPUTE, hw.NVCBC0_SET_SHADER_LOCAL_MEMORY_A, *halves(address)),
        *method(
            COMPUTE,
            hw.NVCBC0_SET_SHADER_LOCAL_MEMORY_NON_THROTTLED_A,
            *halves(processor_pair_bytes),
            _ALL_PROCESSORS,
        ),
    ]


_ALL_PROCESSORS = 0xFF


def decode(words: list[int]) -> list[tuple[int, int, int]]:
    """(subchannel, method, data) of each method in a pushbuffer, for tests and for debugging."""
    found: list[tuple[int, int, int]] = []
    position = 0
    while position < len(words):
        header = words[position]
        count, subchannel, address = header >> 16 & 0x1FFF, header >> 13 & 7, (header & 0xFFF) << 2
        if header >> 29 != hw.NVC56F_DMA_INCR_OPCODE_VALUE:
            raise ValueError(f"word {position} of a pushbuffer is {header:#x}: no method header")
        for offset in range(count):
            found.append((subchannel, address + 4 * offset, words[position + 1 + offset]))
        position += 1 + count
    return found
