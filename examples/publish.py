"""A script that publishes: it proposes new values for a running agent, approves them, and says what was read back.

tars up                                                # in another terminal
python examples/publish.py --agent policy-0 --set learning_rate=5e-4
"""

import argparse

import tars


def main() -> None:
    """Propose, approve, wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--set", dest="sets", action="append", metavar="KEY=VALUE", required=True)
    options = parser.parse_args()
    pairs = (text.split("=") for text in options.sets)
    values = {key: float(value) if "." in value or "e" in value else int(value) for key, value in pairs}
    with tars.connect() as bus:
        update = bus.propose(values, agents=[options.agent], reason="an example")
        update.approve("an example")
        print(update.wait(timeout=3600).kind)
        (row,) = [row for row in bus.agents() if row.agent_id == options.agent]
        print({key: row.values[key] for key in values})


if __name__ == "__main__":
    main()
