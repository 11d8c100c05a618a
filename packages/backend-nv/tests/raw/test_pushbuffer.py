"""The words of pushbuffers and the fields of launch descriptors, as the GPU reads them."""

from __future__ import annotations

import pytest

from dovetile_nv.cubin import Kernel
from dovetile_nv.raw import pushbuffer
from dovetile_nv.raw.descriptor import DESCRIPTOR_BYTES, Patcher, layout, template
from dovetile_nv.raw.generations import AMPERE, BLACKWELL, HOPPER, Generation

KERNEL = Kernel(
    "example",
    code_offset=0x100,
    code_bytes=0x2000,
    registers=40,
    barriers=2,
    shared_bytes=50_000,
    dynamic_bytes=0,
    local_bytes=100,
    arguments_offset=0x210,
    arguments_bytes=32,
    bank_bytes=0x230,
    threads=128,
    maps=(),
    target=0x90,
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (pushbuffer.bind(1, 0xCBC0), [0x20012000, 0xCBC0]),
        (
            pushbuffer.write(0x1_2345_6780, 0x9_0000_0001),
            [0x20050017, 0x23456780, 0x1, 1, 9, 0x01100001],
        ),
        (
            pushbuffer.write_time(0x1_0000_0010),
            [0x20050017, 0x10, 0x1, 0, 0, 0x03100001],
        ),
        (pushbuffer.wait(0x1_0000_0008, 5), [0x20050017, 0x8, 0x1, 5, 0, 0x01001002]),
        (pushbuffer.wait_for_idle(), [0x20012044, 0]),
        (pushbuffer.wait_for_all(), [0x2001001E, 1]),
        (pushbuffer.launch(0x12_3456_7800), [0x200120AD, 0x12345678, 0x200120B0, 9]),
        (
            pushbuffer.copy(0x2_0000_0000, 0x1_0000_0000, 100),
            [0x20048100, 1, 0, 2, 0, 0x20018106, 100, 0x200180C0, 0x186],
        ),
        (
            pushbuffer.local_memory(0x3_0000_0000, 0x8000),
            [0x200221E4, 3, 0, 0x200320B9, 0, 0x8000, 0xFF],
        ),
    ],
    ids="bind write write_time wait wait_for_idle wait_for_all launch copy local".split(),
)
def test_words(words: list[int], expected: list[int]):
    assert words == expected


def test_large_copies_are_several():
    methods = pushbuffer.decode(pushbuffer.copy(1 << 34, 1 << 33, (1 << 31) + 5))
    lengths = [data for _, method, data in methods if method == 0x418]
    assert lengths == [1 << 31, 5]


def test_what_is_no_pushbuffer_is_not_decoded():
    with pytest.raises(ValueError, match="no method header"):
        pushbuffer.decode([0x12345678])


def described(generation: Generation) -> dict[str, int]:
    """The fields of a descriptor for the kernel, by name."""
    shape = layout(generation.descriptor)
    memory = template(generation, KERNEL, 0x12_3456_0100, {4: (0x5_0000_0040, 64)})
    Patcher(generation.descriptor).set_launch(memory, 0, 77, 128, 0x3_4567_8900)
    assert len(memory) == DESCRIPTOR_BYTES
    return {name: shape.read(memory, name) for name in shape.fields} | {
        f"{name} 4": shape.read(memory, name, 4)
        for name in shape.fields
        if name.startswith("CONSTANT_BUFFER")
    }


def test_descriptors_of_hopper():
    found = described(HOPPER)
    expected = {
        "QMD_MAJOR_VERSION": 4,
        "QMD_MINOR_VERSION": 0,
        "QMD_TYPE": 2,  # GRID_CTA
        "QMD_GROUP_ID": 0x3F,
        "SASS_VERSION": 0x90,
        "API_VISIBLE_CALL_LIMIT": 1,
        "CWD_MEMBAR_TYPE": 1,
        "INVALIDATE_SHADER_DATA_CACHE": 1,
        "INVALIDATE_SHADER_CONSTANT_CACHE": 1,
        "INVALIDATE_TEXTURE_DATA_CACHE": 1,
        "SHARED_MEMORY_SIZE": 50_048,  # a multiple of 128
        "MIN_SM_CONFIG_SHARED_MEM_SIZE": 64 // 4 + 1,
        "TARGET_SM_CONFIG_SHARED_MEM_SIZE": 228 // 4 + 1,  # for twelve workgroups at a time
        "MAX_SM_CONFIG_SHARED_MEM_SIZE": 228 // 4 + 1,
        "SHADER_LOCAL_MEMORY_HIGH_SIZE": 688,  # 100 + 0x240, a multiple of 16
        "REGISTER_COUNT": 40,
        "BARRIER_COUNT": 2,
        "GRID_WIDTH": 77,
        "GRID_HEIGHT": 1,
        "GRID_DEPTH": 1,
        "CTA_THREAD_DIMENSION0": 128,
        "CTA_THREAD_DIMENSION1": 1,
        "CTA_THREAD_DIMENSION2": 1,
        "PROGRAM_ADDRESS_LOWER": 0x34560100,
        "PROGRAM_ADDRESS_UPPER": 0x12,
        "CONSTANT_BUFFER_VALID": 1,
        "CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6": 0x3_4567_8900 >> 6,
        "CONSTANT_BUFFER_ADDR_UPPER_SHIFTED6": 0,
        "CONSTANT_BUFFER_SIZE_SHIFTED4": 0x23,
        "CONSTANT_BUFFER_VALID 4": 1,
        "CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6 4": 0x5_0000_0040 >> 6,
        "CONSTANT_BUFFER_SIZE_SHIFTED4 4": 4,
        "DEPENDENT_QMD_ENABLE": 0,
        "DEPENDENT_QMD0_POINTER": 0,
        "RELEASE_ENABLE": 0,
    }
    assert {name: found[name] for name in expected} == expected


def test_descriptors_of_ampere_and_blackwell():
    ampere, blackwell = described(AMPERE), described(BLACKWELL)
    assert (ampere["QMD_MAJOR_VERSION"], blackwell["QMD_MAJOR_VERSION"]) == (3, 5)
    assert ampere["REGISTER_COUNT_V"] == blackwell["REGISTER_COUNT"] == 40
    assert ampere["CTA_RASTER_WIDTH"] == blackwell["GRID_WIDTH"] == 77
    assert ampere["CONSTANT_BUFFER_ADDR_LOWER"] == 0x4567_8900
    assert ampere["CONSTANT_BUFFER_ADDR_UPPER"] == 3
    assert blackwell["SHARED_MEMORY_SIZE_SHIFTED7"] == 50_048 >> 7
    assert blackwell["SHADER_LOCAL_MEMORY_HIGH_SIZE_SHIFTED4"] == 688 >> 4
    assert blackwell["PROGRAM_ADDRESS_LOWER_SHIFTED4"] == 0x2345_6010
    assert blackwell["PROGRAM_ADDRESS_UPPER_SHIFTED4"] == 0x1


@pytest.mark.parametrize("generation", [HOPPER, AMPERE, BLACKWELL], ids=lambda g: g.name)
def test_chains(generation: Generation):
    shape = layout(generation.descriptor)
    memory = template(generation, KERNEL, 0x100, {}) * 2
    before = bytes(memory)
    Patcher(generation.descriptor).chain(memory, DESCRIPTOR_BYTES, 0x12_3456_7800)
    second = bytes(memory[DESCRIPTOR_BYTES:])
    indexed = "DEPENDENT_QMD_ENABLE" in shape.fields
    prefix = "DEPENDENT_QMD_" if indexed else "DEPENDENT_QMD0_"
    assert shape.read(second, prefix + "ENABLE") == 1
    assert shape.read(second, prefix + "ACTION") == 1  # QMD_SCHEDULE
    assert shape.read(second, prefix + "PREFETCH") == 1
    assert shape.read(second, "DEPENDENT_QMD0_POINTER") == 0x12345678
    assert bytes(memory[:DESCRIPTOR_BYTES]) == before[:DESCRIPTOR_BYTES]
    # Nothing else has changed.
    names = (prefix + "ENABLE", prefix + "ACTION", prefix + "PREFETCH", "DEPENDENT_QMD0_POINTER")
    same = int.from_bytes(second, "little")
    for name in names:
        same ^= shape.place(name, shape.read(second, name))
    assert same == int.from_bytes(before[DESCRIPTOR_BYTES:], "little")


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="REGISTER_COUNT takes 9 bits"):
        layout(HOPPER.descriptor).place("REGISTER_COUNT", 512)
