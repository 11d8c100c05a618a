"""The kernel driver's interface, of open-gpu-kernel-modules 580.142.

Written by scripts/generate.py: do not edit.
"""

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

from __future__ import annotations

from dovetile_nv.raw.structure import Structure

DRIVER_VERSION = "580.142"

NV_ESC_RM_FREE = 0x29
NV_ESC_RM_CONTROL = 0x2A
NV_ESC_RM_ALLOC = 0x2B
NV_ESC_RM_MAP_MEMORY = 0x4E
NV_ESC_CARD_INFO = 0xC8
NV_ESC_REGISTER_FD = 0xC9
NV_ERR_NO_MEMORY = 0x51
NV_ERR_INSUFFICIENT_RESOURCES = 0x1A
NV01_ROOT_CLIENT = 0x41
NV01_MEMORY_SYSTEM = 0x3E
NV01_MEMORY_LOCAL_USER = 0x40
NV01_DEVICE_0 = 0x80
NV20_SUBDEVICE_0 = 0x2080
GT200_DEBUGGER = 0x83DE
FERMI_CONTEXT_SHARE_A = 0x9067
FERMI_VASPACE_A = 0x90F1
KEPLER_CHANNEL_GROUP_A = 0xA06C
HOPPER_USERMODE_A = 0xC661
NVC361_NV_USERMODE__SIZE = 0x10000
NVC361_NOTIFY_CHANNEL_PENDING = 0x90
NV_DEVICE_ALLOCATION_VAMODE_OPTIONAL_MULTIPLE_VASPACES = 0x0
NV_VASPACE_ALLOCATION_FLAGS_IS_EXTERNALLY_OWNED = 0x8
NV_VASPACE_ALLOCATION_FLAGS_ENABLE_PAGE_FAULTING = 0x40
NV2080_ENGINE_TYPE_GRAPHICS = 0x1
NV_CTXSHARE_ALLOCATION_FLAGS_SUBCONTEXT_ASYNC = 0x1
NVOS32_TYPE_IMAGE = 0x0
NVOS32_ALLOC_FLAGS_IGNORE_BANK_PLACEMENT = 0x1
NVOS32_ALLOC_FLAGS_ALIGNMENT_FORCE = 0x100
NVOS32_ALLOC_FLAGS_MAP_NOT_REQUIRED = 0x8000
NVOS32_ALLOC_FLAGS_PERSISTENT_VIDMEM = 0x10000
NVOS32_ATTR_LOCATION_VIDMEM = 0x0
NVOS32_ATTR_LOCATION_PCI = 0x1
NVOS32_ATTR_PHYSICALITY_CONTIGUOUS = 0x2
NVOS32_ATTR_PHYSICALITY_ALLOW_NONCONTIGUOUS = 0x3
NVOS32_ATTR_PHYSICALITY_NONCONTIGUOUS = 0x1
NVOS32_ATTR_PAGE_SIZE_BIG = 0x2
NVOS32_ATTR_PAGE_SIZE_HUGE = 0x3
NVOS32_ATTR_COHERENCY_CACHED = 0x1
NVOS32_ATTR2_GPU_CACHEABLE_YES = 0x1
NVOS32_ATTR2_GPU_CACHEABLE_NO = 0x2
NVOS32_ATTR2_ZBC_PREFER_NO_ZBC = 0x1
NVOS32_ATTR2_PAGE_SIZE_HUGE_2MB = 0x1
NVOS33_FLAGS_CACHING_TYPE_DEFAULT = 0x6
NV0000_CTRL_CMD_GPU_GET_ID_INFO_V2 = 0x205
NV0080_CTRL_CMD_GPU_GET_CLASSLIST_V2 = 0x800292
NV2080_CTRL_CMD_GPU_GET_GID_INFO = 0x2080014A
NV2080_GPU_CMD_GPU_GET_GID_FLAGS_FORMAT_BINARY = 0x2
NV2080_CTRL_CMD_GR_GET_INFO = 0x20801201
NV2080_CTRL_GR_INFO_INDEX_SM_VERSION = 0xC
NV2080_CTRL_GR_INFO_INDEX_MAX_WARPS_PER_SM = 0xD
NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_GPCS = 0x14
NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_TPC_PER_GPC = 0x17
NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_SM_PER_TPC = 0x20
NV2080_CTRL_GR_INFO_INDEX_SHADER_PIPE_SUB_COUNT = 0x9
NV2080_CTRL_CMD_FB_GET_INFO_V2 = 0x20801303
NV2080_CTRL_FB_INFO_INDEX_USABLE_RAM_SIZE = 0x20
NVA06C_CTRL_CMD_GPFIFO_SCHEDULE = 0xA06C0101
NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN = 0xC36F0108
NV83DE_CTRL_CMD_DEBUG_READ_MMU_FAULT_INFO = 0x83DE0328
UVM_INITIALIZE = 0x30000001
UVM_MM_INITIALIZE = 0x4B
UVM_REGISTER_GPU = 0x25
UVM_REGISTER_GPU_VASPACE = 0x19
UVM_REGISTER_CHANNEL = 0x1B
UVM_UNREGISTER_CHANNEL = 0x1C
UVM_CREATE_EXTERNAL_RANGE = 0x49
UVM_MAP_EXTERNAL_ALLOCATION = 0x21
UVM_FREE = 0x22
UVM_ENABLE_PEER_ACCESS = 0x1D
UVM_INIT_FLAGS_DISABLE_HMM = 0x1
UvmGpuMappingTypeReadWriteAtomic = 0x1
NVOS32_ATTR_LOCATION = (26, 25)
NVOS32_ATTR_PHYSICALITY = (28, 27)
NVOS32_ATTR_PAGE_SIZE = (24, 23)
NVOS32_ATTR_COHERENCY = (31, 29)
NVOS32_ATTR2_GPU_CACHEABLE = (3, 2)
NVOS32_ATTR2_ZBC = (1, 0)
NVOS32_ATTR2_PAGE_SIZE_HUGE = (21, 20)
NVOS33_FLAGS_CACHING_TYPE = (25, 23)
NV2080_GPU_CMD_GPU_GET_GID_FLAGS_FORMAT = (1, 0)
NV_CTXSHARE_ALLOCATION_FLAGS_SUBCONTEXT = (1, 0)
NVOS00_PARAMETERS = Structure(
    "NVOS00_PARAMETERS",
    16,
    {"hRoot": (0, "I"), "hObjectParent": (4, "I"), "hObjectOld": (8, "I"), "status": (12, "I")},
)
NVOS54_PARAMETERS = Structure(
    "NVOS54_PARAMETERS",
    32,
    {
        "hClient": (0, "I"),
        "hObject": (4, "I"),
        "cmd": (8, "I"),
        "params": (16, "Q"),
        "paramsSize": (24, "I"),
        "status": (28, "I"),
    },
)
NVOS64_PARAMETERS = Structure(
    "NVOS64_PARAMETERS",
    48,
    {
        "hRoot": (0, "I"),
        "hObjectParent": (4, "I"),
        "hObjectNew": (8, "I"),
        "hClass": (12, "I"),
        "pAllocParms": (16, "Q"),
        "paramsSize": (32, "I"),
        "status": (40, "I"),
    },
)
nv_ioctl_nvos33_parameters_with_fd = Structure(
    "nv_ioctl_nvos33_parameters_with_fd",
    56,
    {
        "hClient": (0, "I"),
        "hDevice": (4, "I"),
        "hMemory": (8, "I"),
        "length": (24, "Q"),
        "pLinearAddress": (32, "Q"),
        "status": (40, "I"),
        "flags": (44, "I"),
        "fd": (48, "I"),
    },
)
nv_ioctl_card_info_t = Structure(
    "nv_ioctl_card_info_t", 72, {"valid": (0, "B"), "gpu_id": (16, "I"), "minor_number": (56, "I")}
)
nv_ioctl_register_fd_t = Structure("nv_ioctl_register_fd_t", 4, {"ctl_fd": (0, "I")})
NV0080_ALLOC_PARAMETERS = Structure(
    "NV0080_ALLOC_PARAMETERS",
    56,
    {"deviceId": (0, "I"), "hClientShare": (4, "I"), "vaMode": (48, "I")},
)
NV2080_ALLOC_PARAMETERS = Structure("NV2080_ALLOC_PARAMETERS", 4, {"subDeviceId": (0, "I")})
NV83DE_ALLOC_PARAMETERS = Structure(
    "NV83DE_ALLOC_PARAMETERS", 12, {"hAppClient": (4, "I"), "hClass3dObject": (8, "I")}
)
NV_MEMORY_ALLOCATION_PARAMS = Structure(
    "NV_MEMORY_ALLOCATION_PARAMS",
    128,
    {
        "owner": (0, "I"),
        "type": (4, "I"),
        "flags": (8, "I"),
        "attr": (24, "I"),
        "attr2": (28, "I"),
        "size": (64, "Q"),
        "alignment": (72, "Q"),
    },
)
NV_VASPACE_ALLOCATION_PARAMETERS = Structure(
    "NV_VASPACE_ALLOCATION_PARAMETERS", 56, {"flags": (4, "I"), "vaBase": (40, "Q")}
)
NV_CHANNEL_GROUP_ALLOCATION_PARAMETERS = Structure(
    "NV_CHANNEL_GROUP_ALLOCATION_PARAMETERS",
    20,
    {"hObjectError": (0, "I"), "hVASpace": (8, "I"), "engineType": (12, "I")},
)
NV_CTXSHARE_ALLOCATION_PARAMETERS = Structure(
    "NV_CTXSHARE_ALLOCATION_PARAMETERS", 12, {"hVASpace": (0, "I"), "flags": (4, "I")}
)
NV_CHANNEL_ALLOC_PARAMS = Structure(
    "NV_CHANNEL_ALLOC_PARAMS",
    368,
    {
        "hObjectError": (0, "I"),
        "hObjectBuffer": (4, "I"),
        "gpFifoOffset": (8, "Q"),
        "gpFifoEntries": (16, "I"),
        "flags": (20, "I"),
        "hContextShare": (24, "I"),
        "hVASpace": (28, "I"),
        "hUserdMemory": (32, "I"),
        "userdOffset": (64, "Q"),
        "engineType": (128, "I"),
    },
)
NV_HOPPER_USERMODE_A_PARAMS = Structure(
    "NV_HOPPER_USERMODE_A_PARAMS", 2, {"bBar1Mapping": (0, "B"), "bPriv": (1, "B")}
)
NvNotification = Structure(
    "NvNotification", 16, {"info32": (8, "I"), "info16": (12, "H"), "status": (14, "H")}
)
NV0000_CTRL_GPU_GET_ID_INFO_V2_PARAMS = Structure(
    "NV0000_CTRL_GPU_GET_ID_INFO_V2_PARAMS",
    32,
    {"gpuId": (0, "I"), "deviceInstance": (8, "I"), "subDeviceInstance": (12, "I")},
)
NV0080_CTRL_GPU_GET_CLASSLIST_V2_PARAMS = Structure(
    "NV0080_CTRL_GPU_GET_CLASSLIST_V2_PARAMS",
    804,
    {"numClasses": (0, "I"), "classList": (4, "200I")},
)
NV2080_CTRL_GPU_GET_GID_INFO_PARAMS = Structure(
    "NV2080_CTRL_GPU_GET_GID_INFO_PARAMS",
    268,
    {"flags": (4, "I"), "length": (8, "I"), "data": (12, "256s")},
)
NV2080_CTRL_GR_GET_INFO_PARAMS = Structure(
    "NV2080_CTRL_GR_GET_INFO_PARAMS", 32, {"grInfoListSize": (0, "I"), "grInfoList": (8, "Q")}
)
NVXXXX_CTRL_XXX_INFO = Structure("NVXXXX_CTRL_XXX_INFO", 8, {"index": (0, "I"), "data": (4, "I")})
NV2080_CTRL_FB_GET_INFO_V2_PARAMS = Structure(
    "NV2080_CTRL_FB_GET_INFO_V2_PARAMS",
    1028,
    {"fbInfoListSize": (0, "I"), "index": (4, "I"), "data": (8, "I")},
)
NVA06C_CTRL_GPFIFO_SCHEDULE_PARAMS = Structure(
    "NVA06C_CTRL_GPFIFO_SCHEDULE_PARAMS", 3, {"bEnable": (0, "B")}
)
NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN_PARAMS = Structure(
    "NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN_PARAMS", 4, {"workSubmitToken": (0, "I")}
)
NV83DE_CTRL_DEBUG_READ_MMU_FAULT_INFO_PARAMS = Structure(
    "NV83DE_CTRL_DEBUG_READ_MMU_FAULT_INFO_PARAMS",
    72,
    {"count": (64, "I"), "faultAddress": (0, "Q"), "faultType": (8, "I"), "accessType": (12, "I")},
)
UVM_INITIALIZE_PARAMS = Structure(
    "UVM_INITIALIZE_PARAMS", 16, {"flags": (0, "Q"), "rmStatus": (8, "I")}
)
UVM_MM_INITIALIZE_PARAMS = Structure(
    "UVM_MM_INITIALIZE_PARAMS", 8, {"uvmFd": (0, "I"), "rmStatus": (4, "I")}
)
UVM_REGISTER_GPU_PARAMS = Structure(
    "UVM_REGISTER_GPU_PARAMS",
    40,
    {"gpu_uuid": (0, "16s"), "rmCtrlFd": (24, "I"), "hClient": (28, "I"), "rmStatus": (36, "I")},
)
UVM_REGISTER_GPU_VASPACE_PARAMS = Structure(
    "UVM_REGISTER_GPU_VASPACE_PARAMS",
    32,
    {
        "gpuUuid": (0, "16s"),
        "rmCtrlFd": (16, "I"),
        "hClient": (20, "I"),
        "hVaSpace": (24, "I"),
        "rmStatus": (28, "I"),
    },
)
UVM_REGISTER_CHANNEL_PARAMS = Structure(
    "UVM_REGISTER_CHANNEL_PARAMS",
    56,
    {
        "gpuUuid": (0, "16s"),
        "rmCtrlFd": (16, "I"),
        "hClient": (20, "I"),
        "hChannel": (24, "I"),
        "base": (32, "Q"),
        "length": (40, "Q"),
        "rmStatus": (48, "I"),
    },
)
UVM_UNREGISTER_CHANNEL_PARAMS = Structure(
    "UVM_UNREGISTER_CHANNEL_PARAMS",
    28,
    {"gpuUuid": (0, "16s"), "hClient": (16, "I"), "hChannel": (20, "I"), "rmStatus": (24, "I")},
)
UVM_CREATE_EXTERNAL_RANGE_PARAMS = Structure(
    "UVM_CREATE_EXTERNAL_RANGE_PARAMS",
    24,
    {"base": (0, "Q"), "length": (8, "Q"), "rmStatus": (16, "I")},
)
UVM_MAP_EXTERNAL_ALLOCATION_PARAMS = Structure(
    "UVM_MAP_EXTERNAL_ALLOCATION_PARAMS",
    9264,
    {
        "base": (0, "Q"),
        "length": (8, "Q"),
        "offset": (16, "Q"),
        "gpuUuid": (24, "16s"),
        "gpuMappingType": (40, "I"),
        "gpuAttributesCount": (9240, "Q"),
        "rmCtrlFd": (9248, "I"),
        "hClient": (9252, "I"),
        "hMemory": (9256, "I"),
        "rmStatus": (9260, "I"),
    },
)
UVM_FREE_PARAMS = Structure(
    "UVM_FREE_PARAMS", 24, {"base": (0, "Q"), "length": (8, "Q"), "rmStatus": (16, "I")}
)
UVM_ENABLE_PEER_ACCESS_PARAMS = Structure(
    "UVM_ENABLE_PEER_ACCESS_PARAMS",
    36,
    {"first": (0, "16s"), "second": (16, "16s"), "rmStatus": (32, "I")},
)
