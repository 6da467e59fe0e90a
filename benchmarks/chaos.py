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
        found = asyncio.run(Ordeal(Path(folder), options.seed, commands, kills).run())
    rows = figures(found, options.seed)
    show("chaos", rows, options.json)
    sys.exit(any(row.value for row in rows))


if __name__ == "__main__":
    main()
