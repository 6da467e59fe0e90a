"""What runs in the network of another process: in a module of its own, as processes of a herd import what they run."""

import sys
import urllib.request

from light_agents import serve
from namespaces import enter
from tars.cli.main import main


def work(namespace: int) -> None:
    """`tars run sync` in the network of a process."""
    enter(namespace)
    sys.argv = ["tars", "run", "sync", "--port", "0"]
    main()


def host(namespace: int, *names: str) -> None:
    """Light agents there."""
    enter(namespace)
    serve(*names)


def is_ready(port: int) -> bool:
    """Ask a worker there, from there."""
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10).status == 200)
    except OSError:
        return False
