"""What setup.py builds for the `native` engine. Imports nothing but the standard library."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = Path("kernels/fused_lstm/native")  # setuptools wants paths relative to setup.py
REQUIRE = "FUSED_LSTM_REQUIRE_NATIVE"  # in the environment: a build that fails is an error
OBJECTS = "build/objects"
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-ffp-contract=fast"]


def setup_arguments() -> dict:
    """Arguments for setuptools.setup(): the extension, or none where PyTorch is not there.

    A package without the C++ engine is of use, so a failure is printed and no error, unless the
    environment's FUSED_LSTM_REQUIRE_NATIVE is set to anything but 0.
    """
    required = os.environ.get(REQUIRE, "0") not in ("", "0")
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        if required:
            raise SystemExit(f"native engine not built, and {REQUIRE} is set: {error}") from error
        print(f"native engine not built: {error}", file=sys.stderr)
        return {}

    class OptionalBuild(BuildExtension):
        """Where it cannot be built the package is installed without it, and says so."""

        def initialize_options(self) -> None:
            super().initialize_options()
            # Kept, so that a wheel after an editable install finds what ninja need not compile.
            self.build_temp = OBJECTS

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:  # no compiler, an old one, no headers: whatever it is
                if required:
                    raise
                print(f"native engine not built: {error}", file=sys.stderr)

    # For `make sanitize`: FUSED_LSTM_SANITIZE=address. At -O3 it would compile for a quarter of an
    # hour; the tile's loops are unrolled by pragmas all the same.
    sanitize = os.environ.get("FUSED_LSTM_SANITIZE")
    checks = ["-O1", f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"] if sanitize else []
    openmp = ["-fopenmp"] if sys.platform == "linux" else []
    extension = CppExtension(
        "fused_lstm.native._C",
        sorted(str(path) for path in FOLDER.rglob("*.cpp")),
        depends=sorted(str(path) for path in FOLDER.rglob("*.h")),
        include_dirs=[str(FOLDER.resolve())],
        # Compiled with OpenMP but not linked with it: the symbols are found in the copy that
        # torch brings, whose threads are then ours too. A second copy would have its own.
        extra_compile_args=[*FLAGS, *openmp, *checks],
        extra_link_args=checks,
        optional=not required,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": OptionalBuild}}
