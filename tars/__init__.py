"""TARS: a release process for the hyperparameters of reinforcement-learning agents that are already running.

The code lives in the folders beside this one; here they get their import name. ``tars/agents`` is a link to
``../agents`` and so on, because a package called ``agents`` or ``schemas`` must not be installed at the top
level: other projects already use these names.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tars.agents.attach import attach
    from tars.agents.model_check import check
    from tars.producers.client import connect

__version__ = "0.10.0"

if find_spec("tars.agents") is None:  # links unpacked as text files, or a wheel built from such files
    _why = (
        "the links in the folder tars/ are no links here, so tars.agents and its neighbours are missing. "
        "On Windows: turn on Developer Mode, then run\n"
        "    git config core.symlinks true && git checkout-index --force --all\n"
        "From a ZIP: use git clone, or an unpacker that keeps links (unzip, tar)."
    )
    raise ImportError(_why)

_PUBLIC = {  # name -> module; loaded when first used: importing tars is light
    "attach": "tars.agents.attach",
    "check": "tars.agents.model_check",
    "connect": "tars.producers.client",
}

__all__ = ["__version__", "attach", "check", "connect"]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for."""
    if name not in _PUBLIC:
        message = f"module 'tars' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_PUBLIC[name]), name)
