"""Writes dovetile_nv/raw/{driver_abi,hardware}.py from NVIDIA's headers; needs a C compiler.

    git clone --depth 1 --branch 580.142 https://github.com/NVIDIA/open-gpu-kernel-modules
    git clone --depth 1 https://github.com/NVIDIA/open-gpu-doc
    python scripts/generate.py open-gpu-kernel-modules open-gpu-doc

Only what the runtime uses is taken over: add a name to the lists here when it needs another.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "src" / "dovetile_nv" / "raw"

INCLUDES = """
nvos.h nvgputypes.h nverror.h alloc/alloc_channel.h nv_escape.h nv-ioctl.h
nv-unix-nvos-params-wrappers.h class/cl0000.h class/cl003e.h class/cl0040.h class/cl0080.h
class/cl2080.h class/cl2080_notification.h class/cl83de.h class/cl9067.h class/cl90f1.h
class/cla06c.h class/clc361.h class/clc561.h class/clc661.h ctrl/ctrl0000/ctrl0000gpu.h
ctrl/ctrl0080/ctrl0080gpu.h ctrl/ctrl2080/ctrl2080gpu.h ctrl/ctrl2080/ctrl2080gr.h
ctrl/ctrl2080/ctrl2080fb.h ctrl/ctrl83de/ctrl83dedebug.h ctrl/ctrla06c.h
ctrl/ctrlc36f.h nv_uvm_user_types.h uvm_ioctl.h uvm_linux_ioctl.h
""".split()

# Structures with the fields in use: `name=path` gives a field another name, `[]` marks an array.
STRUCTURES = """
NVOS00_PARAMETERS hRoot hObjectParent hObjectOld status
NVOS54_PARAMETERS hClient hObject cmd params paramsSize status
NVOS64_PARAMETERS hRoot hObjectParent hObjectNew hClass pAllocParms paramsSize status
nv_ioctl_nvos33_parameters_with_fd hClient=params.hClient hDevice=params.hDevice \
    hMemory=params.hMemory length=params.length pLinearAddress=params.pLinearAddress \
    status=params.status flags=params.flags fd
nv_ioctl_card_info_t valid gpu_id minor_number
nv_ioctl_register_fd_t ctl_fd
NV0080_ALLOC_PARAMETERS deviceId hClientShare vaMode
NV2080_ALLOC_PARAMETERS subDeviceId
NV83DE_ALLOC_PARAMETERS hAppClient hClass3dObject
NV_MEMORY_ALLOCATION_PARAMS owner type flags attr attr2 size alignment
NV_VASPACE_ALLOCATION_PARAMETERS flags vaBase
NV_CHANNEL_GROUP_ALLOCATION_PARAMETERS hObjectError hVASpace engineType
NV_CTXSHARE_ALLOCATION_PARAMETERS hVASpace flags
NV_CHANNEL_ALLOC_PARAMS hObjectError hObjectBuffer gpFifoOffset gpFifoEntries flags \
    hContextShare hVASpace hUserdMemory=hUserdMemory[0] userdOffset=userdOffset[0] engineType
NV_HOPPER_USERMODE_A_PARAMS bBar1Mapping bPriv
NvNotification info32 info16 status
NV0000_CTRL_GPU_GET_ID_INFO_V2_PARAMS gpuId deviceInstance subDeviceInstance
NV0080_CTRL_GPU_GET_CLASSLIST_V2_PARAMS numClasses classList[]
NV2080_CTRL_GPU_GET_GID_INFO_PARAMS flags length data[]
NV2080_CTRL_GR_GET_INFO_PARAMS grInfoListSize grInfoList
NVXXXX_CTRL_XXX_INFO index data
NV2080_CTRL_FB_GET_INFO_V2_PARAMS fbInfoListSize index=fbInfoList[0].index data=fbInfoList[0].data
NVA06C_CTRL_GPFIFO_SCHEDULE_PARAMS bEnable
NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN_PARAMS workSubmitToken
NV83DE_CTRL_DEBUG_READ_MMU_FAULT_INFO_PARAMS count faultAddress=mmuFaultInfoList[0].faultAddress \
    faultType=mmuFaultInfoList[0].faultType accessType=mmuFaultInfoList[0].accessType
UVM_INITIALIZE_PARAMS flags rmStatus
UVM_MM_INITIALIZE_PARAMS uvmFd rmStatus
UVM_REGISTER_GPU_PARAMS gpu_uuid=gpu_uuid.uuid[] rmCtrlFd hClient rmStatus
UVM_REGISTER_GPU_VASPACE_PARAMS gpuUuid=gpuUuid.uuid[] rmCtrlFd hClient hVaSpace rmStatus
UVM_REGISTER_CHANNEL_PARAMS gpuUuid=gpuUuid.uuid[] rmCtrlFd hClient hChannel base length rmStatus
UVM_UNREGISTER_CHANNEL_PARAMS gpuUuid=gpuUuid.uuid[] hClient hChannel rmStatus
UVM_CREATE_EXTERNAL_RANGE_PARAMS base length rmStatus
UVM_MAP_EXTERNAL_ALLOCATION_PARAMS base length offset gpuUuid=perGpuAttributes[0].gpuUuid.uuid[] \
    gpuMappingType=perGpuAttributes[0].gpuMappingType gpuAttributesCount rmCtrlFd hClient hMemory \
    rmStatus
UVM_FREE_PARAMS base length rmStatus
UVM_ENABLE_PEER_ACCESS_PARAMS first=gpuUuidA.uuid[] second=gpuUuidB.uuid[] rmStatus
"""

CONSTANTS = """
NV_ESC_RM_FREE NV_ESC_RM_CONTROL NV_ESC_RM_ALLOC NV_ESC_RM_MAP_MEMORY
NV_ESC_CARD_INFO NV_ESC_REGISTER_FD
NV_ERR_NO_MEMORY NV_ERR_INSUFFICIENT_RESOURCES
NV01_ROOT_CLIENT NV01_MEMORY_SYSTEM NV01_MEMORY_LOCAL_USER NV01_DEVICE_0 NV20_SUBDEVICE_0
GT200_DEBUGGER FERMI_CONTEXT_SHARE_A FERMI_VASPACE_A KEPLER_CHANNEL_GROUP_A
HOPPER_USERMODE_A
NVC361_NV_USERMODE__SIZE NVC361_NOTIFY_CHANNEL_PENDING
NV_DEVICE_ALLOCATION_VAMODE_OPTIONAL_MULTIPLE_VASPACES
NV_VASPACE_ALLOCATION_FLAGS_IS_EXTERNALLY_OWNED NV_VASPACE_ALLOCATION_FLAGS_ENABLE_PAGE_FAULTING
NV2080_ENGINE_TYPE_GRAPHICS
NV_CTXSHARE_ALLOCATION_FLAGS_SUBCONTEXT_ASYNC
NVOS32_TYPE_IMAGE
NVOS32_ALLOC_FLAGS_IGNORE_BANK_PLACEMENT NVOS32_ALLOC_FLAGS_ALIGNMENT_FORCE
NVOS32_ALLOC_FLAGS_MAP_NOT_REQUIRED
NVOS32_ALLOC_FLAGS_PERSISTENT_VIDMEM
NVOS32_ATTR_LOCATION_VIDMEM NVOS32_ATTR_LOCATION_PCI
NVOS32_ATTR_PHYSICALITY_CONTIGUOUS NVOS32_ATTR_PHYSICALITY_ALLOW_NONCONTIGUOUS
NVOS32_ATTR_PHYSICALITY_NONCONTIGUOUS NVOS32_ATTR_PAGE_SIZE_BIG
NVOS32_ATTR_PAGE_SIZE_HUGE NVOS32_ATTR_COHERENCY_CACHED
NVOS32_ATTR2_GPU_CACHEABLE_YES NVOS32_ATTR2_GPU_CACHEABLE_NO
NVOS32_ATTR2_ZBC_PREFER_NO_ZBC NVOS32_ATTR2_PAGE_SIZE_HUGE_2MB
NVOS33_FLAGS_CACHING_TYPE_DEFAULT
NV0000_CTRL_CMD_GPU_GET_ID_INFO_V2 NV0080_CTRL_CMD_GPU_GET_CLASSLIST_V2
NV2080_CTRL_CMD_GPU_GET_GID_INFO NV2080_GPU_CMD_GPU_GET_GID_FLAGS_FORMAT_BINARY
NV2080_CTRL_CMD_GR_GET_INFO NV2080_CTRL_GR_INFO_INDEX_SM_VERSION
NV2080_CTRL_GR_INFO_INDEX_MAX_WARPS_PER_SM NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_GPCS
NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_TPC_PER_GPC NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_SM_PER_TPC
NV2080_CTRL_GR_INFO_INDEX_SHADER_PIPE_SUB_COUNT
NV2080_CTRL_CMD_FB_GET_INFO_V2 NV2080_CTRL_FB_INFO_INDEX_USABLE_RAM_SIZE
NVA06C_CTRL_CMD_GPFIFO_SCHEDULE NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN
NV83DE_CTRL_CMD_DEBUG_READ_MMU_FAULT_INFO
UVM_INITIALIZE UVM_MM_INITIALIZE UVM_REGISTER_GPU UVM_REGISTER_GPU_VASPACE UVM_REGISTER_CHANNEL
UVM_UNREGISTER_CHANNEL UVM_CREATE_EXTERNAL_RANGE UVM_MAP_EXTERNAL_ALLOCATION UVM_FREE
UVM_ENABLE_PEER_ACCESS
UVM_INIT_FLAGS_DISABLE_HMM UvmGpuMappingTypeReadWriteAtomic
""".split()

# Bit ranges, (high, low).
RANGES = """
NVOS32_ATTR_LOCATION NVOS32_ATTR_PHYSICALITY NVOS32_ATTR_PAGE_SIZE NVOS32_ATTR_COHERENCY
NVOS32_ATTR2_GPU_CACHEABLE NVOS32_ATTR2_ZBC NVOS32_ATTR2_PAGE_SIZE_HUGE NVOS33_FLAGS_CACHING_TYPE
NV2080_GPU_CMD_GPU_GET_GID_FLAGS_FORMAT NV_CTXSHARE_ALLOCATION_FLAGS_SUBCONTEXT
""".split()

# Names of hardware headers: methods, their bit ranges and values.
METHODS = {
    "driver:src/common/sdk/nvidia/inc/class/clc86f.h": """
        NVC86F_SEM_ADDR_LO NVC86F_SEM_EXECUTE
        NVC86F_SEM_EXECUTE_OPERATION_RELEASE
        NVC86F_SEM_EXECUTE_ACQUIRE_SWITCH_TSG NVC86F_SEM_EXECUTE_RELEASE_WFI
        NVC86F_SEM_EXECUTE_PAYLOAD_SIZE NVC86F_SEM_EXECUTE_RELEASE_TIMESTAMP NVC86F_WFI
        NVC86F_WFI_SCOPE_ALL NVC86F_GP_ENTRY1_GET_HI NVC86F_GP_ENTRY1_LENGTH
    """,
    "doc:classes/host/clc56f.h": """
        NVC56F_DMA_INCR_OPCODE_VALUE
        NVC56F_SEM_EXECUTE_OPERATION_ACQ_STRICT_GEQ NVC56F_SEM_EXECUTE_PAYLOAD_SIZE_64BIT
        NVC56F_SEM_EXECUTE_RELEASE_WFI_EN NVC56F_SEM_EXECUTE_RELEASE_TIMESTAMP_EN
    """,
    "doc:classes/compute/clcbc0.h": """
        NVCBC0_SET_OBJECT NVCBC0_WAIT_FOR_IDLE NVCBC0_SET_SHADER_SHARED_MEMORY_WINDOW_A
        NVCBC0_SEND_PCAS_A
        NVCBC0_SEND_SIGNALING_PCAS2_B
        NVCBC0_SEND_SIGNALING_PCAS2_B_PCAS_ACTION_PREFETCH_SCHEDULE
        NVCBC0_SET_SHADER_LOCAL_MEMORY_NON_THROTTLED_A NVCBC0_SET_SHADER_LOCAL_MEMORY_A
        NVCBC0_SET_SHADER_LOCAL_MEMORY_WINDOW_A NVCBC0_INVALIDATE_SHADER_CACHES_NO_WFI
        NVCBC0_INVALIDATE_SHADER_CACHES_NO_WFI_INSTRUCTION
        NVCBC0_INVALIDATE_SHADER_CACHES_NO_WFI_GLOBAL_DATA
        NVCBC0_INVALIDATE_SHADER_CACHES_NO_WFI_CONSTANT
    """,
    "doc:classes/dma-copy/clc8b5.h": """
        NVC8B5_OFFSET_IN_UPPER NVC8B5_OFFSET_OUT_UPPER NVC8B5_LINE_LENGTH_IN NVC8B5_LAUNCH_DMA
        NVC8B5_LAUNCH_DMA_DATA_TRANSFER_TYPE NVC8B5_LAUNCH_DMA_DATA_TRANSFER_TYPE_NON_PIPELINED
        NVC8B5_LAUNCH_DMA_FLUSH_ENABLE NVC8B5_LAUNCH_DMA_SRC_MEMORY_LAYOUT
        NVC8B5_LAUNCH_DMA_DST_MEMORY_LAYOUT
    """,
}

# Versions of the launch descriptor and the headers that describe them.
DESCRIPTORS = {
    (3, 0): ("doc:classes/compute/clc6c0qmd.h", "NVC6C0_QMDV03_00_"),
    (4, 0): ("doc:classes/compute/clcbc0qmd.h", "NVCBC0_QMDV04_00_"),
    (5, 0): ("doc:classes/compute/clcdc0qmd.h", "NVCDC0_QMDV05_00_"),
}
DESCRIPTOR_FIELDS = """
QMD_MAJOR_VERSION QMD_MINOR_VERSION QMD_TYPE QMD_GROUP_ID SASS_VERSION SM_GLOBAL_CACHING_ENABLE
API_VISIBLE_CALL_LIMIT SAMPLER_INDEX CWD_MEMBAR_TYPE INVALIDATE_TEXTURE_HEADER_CACHE
INVALIDATE_TEXTURE_SAMPLER_CACHE INVALIDATE_TEXTURE_DATA_CACHE INVALIDATE_SHADER_DATA_CACHE
INVALIDATE_SHADER_CONSTANT_CACHE
SHARED_MEMORY_SIZE SHARED_MEMORY_SIZE_SHIFTED7 MIN_SM_CONFIG_SHARED_MEM_SIZE
MAX_SM_CONFIG_SHARED_MEM_SIZE TARGET_SM_CONFIG_SHARED_MEM_SIZE
SHADER_LOCAL_MEMORY_HIGH_SIZE
SHADER_LOCAL_MEMORY_HIGH_SIZE_SHIFTED4 REGISTER_COUNT REGISTER_COUNT_V BARRIER_COUNT
GRID_WIDTH GRID_HEIGHT GRID_DEPTH CTA_RASTER_WIDTH CTA_RASTER_HEIGHT CTA_RASTER_DEPTH
CTA_THREAD_DIMENSION0 CTA_THREAD_DIMENSION1 CTA_THREAD_DIMENSION2 PROGRAM_ADDRESS_LOWER
PROGRAM_ADDRESS_UPPER PROGRAM_ADDRESS_LOWER_SHIFTED4 PROGRAM_ADDRESS_UPPER_SHIFTED4
PROGRAM_PREFETCH_ADDR_LOWER_SHIFTED PROGRAM_PREFETCH_ADDR_UPPER_SHIFTED PROGRAM_PREFETCH_SIZE
PROGRAM_PREFETCH_TYPE CONSTANT_BUFFER_VALID CONSTANT_BUFFER_INVALIDATE
CONSTANT_BUFFER_ADDR_LOWER CONSTANT_BUFFER_ADDR_UPPER CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6
CONSTANT_BUFFER_ADDR_UPPER_SHIFTED6 CONSTANT_BUFFER_SIZE_SHIFTED4 DEPENDENT_QMD0_ENABLE
DEPENDENT_QMD0_ACTION DEPENDENT_QMD0_PREFETCH DEPENDENT_QMD_ENABLE DEPENDENT_QMD_ACTION
DEPENDENT_QMD_PREFETCH DEPENDENT_QMD0_POINTER RELEASE_ENABLE ENABLE_PROGRAM_PRE_EXIT
ARRIVE_AT_LATCH_VALID ARRIVE_AT_LATCH_ID WAIT_ON_LATCH_VALID WAIT_ON_LATCH_ID
LATCH_ACQUIRE_INVALIDATE_SHADER_DATA_CACHE LATCH_ACQUIRE_INVALIDATE_TEXTURE_DATA_CACHE
""".split()


def main(driver: Path, doc: Path) -> None:
    roots = {"driver": driver, "doc": doc}
    version = re.search(r"NVIDIA_VERSION = (\S+)", (driver / "version.mk").read_text())
    assert version is not None
    abi = _header(
        f"The kernel driver's interface, of open-gpu-kernel-modules {version[1]}.", driver_notice()
    )
    abi += "from dovetile_nv.raw.structure import Structure\n\n"
    abi += f'DRIVER_VERSION = "{version[1]}"\n\n' + _driver(driver)
    hardware = _header(
        "Methods and launch descriptors of the hardware, of open-gpu-kernel-modules "
        "and\nopen-gpu-doc.",
        driver_notice(),
    )
    hardware += _methods(roots) + _descriptors(roots)
    for name, text in (("driver_abi.py", abi), ("hardware.py", hardware)):
        path = OUTPUT / name
        path.write_text(text)
        subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(path)], check=True)


def driver_notice() -> str:
    return """
# The names and numbers below come from headers that are
# Copyright (c) NVIDIA CORPORATION & AFFILIATES, under this licence (SPDX: MIT):
#
# Permission is hereby granted, free of charge, to any person obtaining a copy of this software
# and associated documentation files (the "Software"), to deal in the Software without
# restriction, including without limitation the rights to use, copy, modify, merge, publish,
# distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
# Software is furnished to do so, subject to the following conditions:
#
# The above copyright notice and this permission notice shall be included in all copies or
# substantial portions of the Software.
#
# THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
# BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
# NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
# DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
# OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def _header(purpose: str, notice: str) -> str:
    return f'"""{purpose}\n\nWritten by scripts/generate.py: do not edit.\n"""\n{notice}\n' + (
        "from __future__ import annotations\n\n"
    )


def _driver(driver: Path) -> str:
    """Asks a C compiler where the fields lie and what the constants are."""
    structures = [line.split() for line in STRUCTURES.replace("\\\n", "").strip().splitlines()]
    lines = [f'#include "{name}"' for name in INCLUDES]
    lines += [
        "#include <stdio.h>",
        "#include <stddef.h>",
        "#define TEXT_(x) #x",
        "#define TEXT(x) TEXT_(x)",
        "int main(void) {",
    ]
    for name in CONSTANTS:
        lines.append(f'printf("{name} = 0x%llx\\n", (unsigned long long)({name}));')
    for name in RANGES:
        lines.append(f'printf("{name} = %s\\n", TEXT({name}));')
    for structure, *fields in structures:
        lines.append(f'printf("{structure}: %zu\\n", sizeof({structure}));')
        for field in fields:
            name, _, path = field.partition("=")
            path = path or name
            element = path[:-2] + "[0]" if path.endswith("[]") else path
            path = path.removesuffix("[]")
            at = f"(({structure} *)0)->"
            lines.append(
                f'printf("  {name.removesuffix("[]")} %zu %zu %zu\\n", '
                f"offsetof({structure}, {path}), sizeof({at}{path}), sizeof({at}{element}));"
            )
    lines.append("}")
    sdk = driver / "src/common/sdk/nvidia/inc"
    folders = [
        sdk,
        driver / "kernel-open/common/inc",
        driver / "kernel-open/nvidia-uvm",
        driver / "src/nvidia/arch/nvalloc/unix/include",
        driver / "src/nvidia/interface",
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "abi.c"), Path(folder, "abi")
        source.write_text("\n".join(lines))
        include = [f"-I{path}" for path in folders]
        subprocess.run(["cc", "-w", *include, source, "-o", program], check=True)
        output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    result, fields, size = [], [], ""
    name = ""

    def close() -> None:
        if name:
            result.append(f'{name} = Structure("{name}", {size}, {{{", ".join(fields)}}})')
            fields.clear()

    for line in output.splitlines():
        if line.startswith("  "):
            field, offset, nbytes, element = line.split()
            result_format = _format(int(nbytes), int(element))
            fields.append(f'"{field}": ({offset}, "{result_format}")')
        elif " = " in line:
            result.append(re.sub(r"= (\d+):(\d+)$", r"= (\1, \2)", line))
        else:
            close()
            name, _, size = line.partition(": ")
    close()
    return "\n".join(result) + "\n"


def _format(nbytes: int, element: int) -> str:
    """The field as a format of the struct module."""
    count = nbytes // element
    if element == 1 and count > 1:
        return f"{count}s"
    letters = {1: "B", 2: "H", 4: "I", 8: "Q"}
    if element not in letters:
        return f"{nbytes}s"
    return (str(count) if count > 1 else "") + letters[element]


def _defines(path: Path) -> dict[str, str]:
    pattern = re.compile(r"^#define\s+(\w+(?:\(i\))?)\s+(.*?)\s*(?://.*|/\*.*)?$", re.MULTILINE)
    return {name: value.strip() for name, value in pattern.findall(path.read_text())}


def _methods(roots: dict[str, Path]) -> str:
    lines = []
    for key, names in METHODS.items():
        root, _, path = key.partition(":")
        defines = _defines(roots[root] / path)
        for name in names.split():
            value = defines[name].strip("()")
            bits = re.fullmatch(r"(\d+):(\d+)", value)
            lines.append(
                f"{name} = ({bits[1]}, {bits[2]})" if bits else f"{name} = {int(value, 0):#x}"
            )
    return "\n".join(lines) + "\n\n"


def _descriptors(roots: dict[str, Path]) -> str:
    text = "# By version (major, minor): field -> (lowest bit, width, distance to the next).\n"
    text += "DESCRIPTORS: dict[tuple[int, int], dict[str, tuple[int, int, int]]] = {\n"
    for version, (key, prefix) in DESCRIPTORS.items():
        root, _, path = key.partition(":")
        defines = _defines(roots[root] / path)
        text += f"{version}: {{\n"
        for name in DESCRIPTOR_FIELDS:
            plain, indexed = defines.get(prefix + name), defines.get(prefix + name + "(i)")
            if plain is not None:
                bits = re.fullmatch(r"MW\((\d+):(\d+)\)", plain)
                assert bits is not None, (name, plain)
                high, low, step = int(bits[1]), int(bits[2]), 0
            elif indexed is not None:
                bits = re.fullmatch(r"MW\(\((\d+)\+\(i\)\*(\d+)\):\((\d+)\+\(i\)\*\d+\)\)", indexed)
                assert bits is not None, (name, indexed)
                high, low, step = int(bits[1]), int(bits[3]), int(bits[2])
            else:
                continue
            text += f'"{name}": ({low}, {high - low + 1}, {step}),\n'
        text += "},\n"
    return text + "}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
