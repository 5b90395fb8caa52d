"""A word-level LSTM language model that runs on any engine of `fused_lstm`."""

import sys
from importlib.util import find_spec

NEEDED = "safetensors", "tqdm", "filelock"  # the extra `lm`; a wheel of fused_lstm brings none

if missing := [name for name in NEEDED if find_spec(name) is None]:
    said = (
        f"lm: got no {', '.join(missing)}; expected the extra 'lm': pip install {' '.join(NEEDED)}"
    )
    if sys.argv[:1] == ["-m"]:  # a command, of which no line has run yet
        print(said, file=sys.stderr)
        sys.exit(2)
    raise ModuleNotFoundError(said)
