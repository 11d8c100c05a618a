"""The two compilers themselves: messages, fingerprints, what is missing, several at once."""

from __future__ import annotations

import pytest
from gpu_kernels import COMPILERS, compilers, elementwise, source_of, target

from dovetile import dtypes
from dovetile.errors import CompileError, DeviceError
from dovetile_nv import cuda_compiler, libraries, plugin, ptx_compiler
from dovetile_nv.capabilities import ARCHITECTURES, architecture_of
from dovetile_nv.disassembly import disassemble

FACTORIES = {"CUDA": cuda_compiler.CudaCompiler, "PTX": ptx_compiler.PtxCompiler}
LIBRARY = {"CUDA": "nvrtc", "PTX": "nvJitLink"}


@compilers
def test_refused_sources_come_with_the_message(compiler: str) -> None:
    made = FACTORIES[compiler](target("sm_90a"))
    with pytest.raises(CompileError, match="nonsense") as caught:
        made.compile("nonsense of mine")
    assert "refused" in str(caught.value)


@pytest.mark.skipif(ptx_compiler.available() is not None, reason=ptx_compiler.available() or "")
def test_refused_assembly_comes_with_the_message() -> None:
    made = ptx_compiler.PtxCompiler(target("sm_90a"))
    source = (
        'define ptx_kernel void @kernel() {\n call void asm sideeffect "nonsense;", ""()\n'
        " ret void\n}\n"
    )
    with pytest.raises(CompileError, match="nvJitLink refused"):
        made.compile(source)


@compilers
def test_several_at_once_are_those_one_by_one(compiler: str) -> None:
    made = FACTORIES[compiler](target("sm_90a"))
    kernels = [elementwise(lambda x, k=k: x * k, [dtypes.float32], 4) for k in (2.0, 3.0)]
    sources = [source_of(compiler, kernel) for kernel in kernels]
    together = [disassemble(cubin) for cubin in made.compile_many(sources)]
    assert together == [disassemble(made.compile(source)) for source in sources]
    assert together[0] != together[1]


@compilers
def test_the_fingerprint_tells_architectures_apart(compiler: str) -> None:
    prints = {FACTORIES[compiler](target(name)).fingerprint() for name in ARCHITECTURES}
    assert len(prints) == len(ARCHITECTURES)


@pytest.mark.parametrize("name", FACTORIES)
def test_what_is_missing_is_said_with_the_cure(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    """As on a machine without the wheels and without a toolkit."""
    monkeypatch.setattr(libraries, "_folders", lambda: [tmp_path])
    monkeypatch.setattr(libraries, "_toolkit_folders", list)
    libraries.find.cache_clear()
    try:
        made = FACTORIES[name](target("sm_90a"))
        wheel = libraries.LIBRARIES[LIBRARY[name]][2]
        assert f"pip install {wheel}" in (made.available() or "")
        with pytest.raises(CompileError, match="pip install"):
            libraries.load(LIBRARY[name])
    finally:
        libraries.find.cache_clear()


def test_wheels_of_both_versions_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(libraries, "_folders", lambda: [tmp_path])
    monkeypatch.setattr(libraries, "_toolkit_folders", list)
    twelve = tmp_path / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"
    thirteen = tmp_path / "cu13" / "lib" / "libnvrtc.so.13"
    try:
        for path, major in ((twelve, 12), (thirteen, 13)):
            path.parent.mkdir(parents=True)
            path.touch()
            libraries.find.cache_clear()
            assert libraries.find("nvrtc") == (str(path), major)
    finally:
        libraries.find.cache_clear()


def test_the_plugin_registers_them_in_order() -> None:
    (device,) = plugin.dovetile_devices()
    specs = device.compilers
    assert [(s.name, s.device) for s in specs] == [("CUDA", "NV"), ("PTX", "NV")]
    for spec in specs:
        capabilities = target("sm_90a")
        assert spec.renderer is not None
        assert spec.renderer(capabilities).language == spec.language
        assert spec.compiler(capabilities).language == spec.language
    assert len(COMPILERS) == len(specs)


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeviceError, match="sm_42.*sm_90a"):
        architecture_of("sm_42")
