"""How many of something, in words. Pure."""


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 agent`, `2 agents`, `1,204 studies`; many: the plural, where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
