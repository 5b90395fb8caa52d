"""Builds the optional C++ engine against the installed PyTorch; the metadata is in pyproject.toml.

    pip install --no-build-isolation -e .

Build isolation would hide the installed PyTorch: the package then installs without its C++ engine,
and `fused_lstm.available_engines("cpu")` says so.
"""

import runpy
from pathlib import Path

from setuptools import setup

# By path, not `import fused_lstm`: that needs torch, which an isolated build does not have.
build = Path(__file__).parent / "kernels" / "fused_lstm" / "native" / "build.py"
setup(**runpy.run_path(str(build))["setup_arguments"]())
