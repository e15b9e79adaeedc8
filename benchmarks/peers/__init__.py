"""Other libraries, each in an environment of its own, outside the project's: `python -m benchmarks.peers [install NAME ...]`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"  # the same for all: what is compared is the library
# What each needs, step by step: pip resolves one step at a time. RecBole 1.2.1 does not start with what it asks for.
PEERS = {
    "rectools": [[TORCH], ["rectools[torch]==0.19.0"]],
    "replay": [[TORCH], ["replay-rec[torch]==0.22.0"]],
    "recbole": [[TORCH], ["recbole==1.2.1"], ["setuptools<81", "numpy<2", "pandas<3"]],
    "implicit": [["implicit==0.7.3"]],
    "ranx": [["ranx==0.3.21"]],
}


def home() -> Path:
    """Where the environments are: peers/ in the cache folder of lmrs."""
    from lmrs.cache import cache_folder

    return cache_folder() / "peers"


def python(name: str) -> Path:
    return home() / name / "bin" / "python"


def side(name: str, *words: object) -> list[str]:
    """The command that asks a peer; it says that the peer is missing where it is."""
    return [str(python(name)), str(HERE / f"with_{name}.py"), *(str(word) for word in words)]


def there(name: str) -> bool:
    return python(name).exists()


def install(name: str) -> None:
    """Makes the environment of one peer. The CPU build of torch is taken where the package index offers it."""
    folder = home() / name
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    keep = ["-c", str(HERE.parents[1] / "constraints.txt")]
    for step in PEERS[name]:
        print(f"{name}: pip install {' '.join(step)}", flush=True)
        subprocess.run([str(python(name)), "-m", "pip", "install", "--quiet", *keep, *step], check=True, env=os.environ)
