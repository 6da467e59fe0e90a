"""What 800 kills do to 40,000 commands: how many are lost, how many count twice. The harness is that of the tests.

Real processes, killed with SIGKILL (workers, agents, NATS, Valkey) or frozen past their lease, and Redis emptied, at
points of the traffic that the seed chooses; tests/ordeal.py says what is counted. A killed process tests no fsync: its
writes are the kernel's by then (docs/reliability.md).
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from ordeal import Ordeal, Outcome
from report import Figure, arguments, show
from tars.runtime.telemetry import start_telemetry

SEED: Final = 20261127
FULL, QUICK = (40_000, 800), (200, 10)
"""Commands, and kills of workers and agents."""


def figures(found: Outcome, seed: int) -> list[Figure]:
    """Turn an account into rows."""
    blows = ", ".join(f"{name} {times}" for name, times in sorted(found.blows.items()))
    wrong = [*found.account.unanswered, *found.account.unfinished, *found.account.behind, *found.account.doubled]
    told = f"{len(found.sent)} commands; {blows}; seed {seed}; {found.seconds:.0f} s"
    return [
        Figure("lost", found.lost, 0, 0, note=told),
        Figure("doubled", found.doubled, 0, 0, note="; ".join(wrong[:10])),
        Figure("wrong", len(found.wrong), 0, 0, note="; ".join(found.wrong[:10])),
    ]


async def followed(ordeal: Ordeal) -> Outcome:
    """Go through it; on standard error, how far it is."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("commands answered", total=ordeal.commands)

        async def look() -> None:
            while True:
                told = f"commands answered, {ordeal.blows.total()} blows dealt"
                progress.update(bar, completed=min(ordeal.answered, ordeal.commands), description=told)
                await asyncio.sleep(0.5)

        looking = asyncio.create_task(look())
        try:
            return await ordeal.run()
        finally:
            looking.cancel()


def main() -> None:
    """Kill, count, show, write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seed", type=int, default=SEED, help="which process is hit, and when; and what is sent")
    parser.add_argument("--commands", type=int, help="how many are sent, with a kill for every fifty")
    options = parser.parse_args()
    commands, kills = QUICK if options.quick else FULL
    if options.commands:
        commands, kills = options.commands, max(10, options.commands // 50)
    start_telemetry("bench", "ERROR")
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(followed(Ordeal(Path(folder), options.seed, commands, kills)))
    rows = figures(found, options.seed)
    show("chaos", rows, options.json)
    sys.exit(any(row.value for row in rows))


if __name__ == "__main__":
    main()
