"""The build of the `native` engine by setup.py; it imports the standard library alone.

One library serves every Python and every PyTorch from 2.11 on: it knows LibTorch's stable ABI, of
which any such PyTorch has the headers, and nothing of Python. ninja compiles it.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("kernels/fused_lstm/native")  # setuptools wants paths relative to setup.py
LIBRARY = "fused_lstm.native._native"
REQUIRE = "FUSED_LSTM_REQUIRE_NATIVE"  # in the environment: a build that fails is an error
OBJECTS = "build/objects"
OLDEST_TORCH = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # 2.11
FLAGS = ["-std=c++20", "-O3", "-g0", "-fPIC", "-Wall", "-DNDEBUG", "-fwrapv", "-fno-math-errno",
         "-ffp-contract=fast", OLDEST_TORCH]  # fmt: skip

# LLVM's clang-cl, which comes with Visual Studio: cl has neither vector_size nor GCC's builtins.
MSVC_FLAGS = ["/std:c++20", "/O2", "/EHsc", "/MD", "/W3", "-DNDEBUG", "/clang:-fwrapv",
              "/clang:-fno-math-errno", "/clang:-ffp-contract=fast", OLDEST_TORCH]  # fmt: skip

# LibTorch is in the process before this library is: its name is all the linker has to know, and a
# library of that name is all it gets, of whatever machine is compiled for.
LINUX = """
rule name
  description = $out
  command = echo | $cxx -shared -nostdlib -Wl,-soname,libtorch_cpu.so -x c++ - -o $out
build libtorch_cpu.so: name
"""
NINJA = """
builddir = {folder}
rule compile
  description = $in
  command = {launcher} $cxx -MMD -MF $out.d {flags} $more -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  description = $out
  command = $cxx -shared {link} $in {libraries} -o $out
"""
MSVC_NINJA = """
builddir = {folder}
rule compile
  description = $in
  command = {launcher} $cxx /nologo /showIncludes {flags} /c $in /Fo$out
  deps = msvc
rule link
  description = $out
  command = $cxx /nologo /LD $in {link} /link {libraries} /OUT:$out
"""


def setup_arguments() -> dict:
    """Return the arguments of setuptools.setup(): the library, or none where PyTorch is missing.

    A package without the C++ engine is of use, so a failure is printed and no error, unless the
    environment's FUSED_LSTM_REQUIRE_NATIVE is set to anything but 0.
    """
    required = os.environ.get(REQUIRE, "0") not in ("", "0")
    torch = importlib.util.find_spec("torch")  # not imported: its headers are what is needed
    if torch is None:
        if required:
            raise SystemExit(f"native engine not built, and {REQUIRE} is set: there is no torch")
        print("native engine not built: there is no torch", file=sys.stderr)
        return {}

    from setuptools import Extension
    from setuptools.command.bdist_wheel import bdist_wheel
    from setuptools.command.build_ext import build_ext

    class Build(build_ext):
        """A build whose failure is printed; the package is then installed without the library."""

        def initialize_options(self) -> None:
            super().initialize_options()
            # Kept, so that a wheel after an editable install finds what ninja need not compile.
            self.build_temp = OBJECTS

        def get_ext_filename(self, name: str) -> str:
            return name.replace(".", os.sep) + ".so"

        def build_extension(self, extension: Extension) -> None:
            target = Path(self.get_ext_fullpath(extension.name)).resolve()
            try:
                compile_all(
                    list(map(str, extension.sources)), Path(self.build_temp), target, torch_folder,
                    quiet=False,
                )  # fmt: skip
            except Exception as error:  # no compiler, an old one, no ninja: whatever it is
                if required:
                    raise
                print(f"native engine not built: {error}", file=sys.stderr)

    class Wheel(bdist_wheel):
        def get_tag(self) -> tuple[str, str, str]:
            return "py3", "none", super().get_tag()[2]

    torch_folder = Path(str(torch.origin)).parent
    sources, headers = (sorted(map(str, FOLDER.rglob(f"*.{end}"))) for end in ("cpp", "h"))
    depends = [*headers, str(FOLDER.parent / "schemas.txt")]
    extension = Extension(LIBRARY, sources, depends=depends, optional=not required)
    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build, "bdist_wheel": Wheel}}


def compile_all(
    sources: Sequence[str | Path],
    folder: Path,
    target: Path,
    torch: Path,
    includes: Sequence[Path] = (FOLDER,),
    links: Sequence[Path] = (),
    flags: Sequence[str] = (),
    local: Sequence[Path] = (),
    quiet: bool = True,
) -> None:
    """Compile and link what has changed: the environment's CXX and MAX_JOBS say how.

    Args:
        sources: files of C++.
        folder: where objects go.
        target: the library.
        torch: PyTorch's folder.
        includes: where our headers are.
        links: libraries that `target` uses; it finds them where they are now.
        flags: more of the compiler's.
        local: of the sources, those that are compiled for this CPU alone, by GCC or Clang.
        quiet: print what a compiler says, and not how far it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    linux, windows = sys.platform == "linux", sys.platform == "win32"
    join = subprocess.list2cmdline if windows else shlex.join
    cxx = os.environ.get("CXX", "clang-cl" if windows else "c++")
    launcher = "" if "CXX" in os.environ else shutil.which("ccache") or ""
    # For `make sanitize`: FUSED_LSTM_SANITIZE=address. At -O3 it would compile for a quarter of an
    # hour; the tile's loops are unrolled by pragmas all the same.
    sanitize = os.environ.get("FUSED_LSTM_SANITIZE")
    checks = ["-O1", f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"] if sanitize else []
    # Compiled with OpenMP but not linked with it: the symbols are found in the copy that torch
    # brings, whose threads are then ours too. A second copy would have its own. Elsewhere torch's
    # copy cannot be relied on, and a team is one thread.
    openmp = ["-fopenmp"] if linux else []
    # Relative, so that ccache knows a file that another checkout has compiled.
    relative = [os.path.relpath(path.resolve(), folder.resolve()) for path in includes]
    headers = [f"-I{path}" for path in (*relative, torch / "include")]
    libraries = [str(link.resolve()) for link in links]
    if linux:
        libraries += ["-Wl,-Bsymbolic,--no-as-needed", "libtorch_cpu.so"]
    elif windows:
        libraries += [f"/LIBPATH:{torch / 'lib'}", "torch_cpu.lib"]
    else:
        libraries += [f"-L{torch / 'lib'}", "-ltorch_cpu", "-Wl,-undefined,dynamic_lookup"]
    text = [f"cxx = {cxx}", LINUX if linux else ""]
    text.append((MSVC_NINJA if windows else NINJA).format(
        folder=".", launcher=launcher, link=join(checks), libraries=join(libraries),
        flags=join([*headers, *(MSVC_FLAGS if windows else FLAGS), *openmp, *checks, *flags]),
    ))  # fmt: skip
    files = [Path(source).resolve() for source in sources]
    root = os.path.commonpath([file.parent for file in files])
    objects = [str(file.relative_to(root).with_suffix(".o")) for file in files]
    for file, name in zip(files, objects, strict=True):
        source = os.path.relpath(file, folder.resolve())
        text.append(f"build {escaped(name)}: compile {escaped(source)}")
        if file in local and not windows:
            text.append("  more = -march=native")
    needs = ["libtorch_cpu.so"] * linux + [str(link.resolve()) for link in links]
    linked = " ".join(map(escaped, objects))
    text.append(f"build {escaped(target)}: link {linked} | {' '.join(map(escaped, needs))}\n")
    (folder / "build.ninja").write_text("\n".join(text))
    ninja = shutil.which("ninja", path=Path(sys.executable).parent) or shutil.which("ninja")
    if ninja is None:
        raise RuntimeError("there is no ninja: pip install ninja")
    jobs = [f"-j{os.environ['MAX_JOBS']}"] if "MAX_JOBS" in os.environ else []
    status = {"NINJA_STATUS": "%f of %t files, %e s: "}  # over the one before it on a terminal
    words = ["--quiet"] if quiet else []
    subprocess.run([ninja, "-C", folder, *words, *jobs], check=True, env=os.environ | status)


def escaped(path: str | Path) -> str:
    """Return a path as ninja reads it: a drive's colon and a space would end it."""
    return str(path).replace("$", "$$").replace(":", "$:").replace(" ", "$ ")
