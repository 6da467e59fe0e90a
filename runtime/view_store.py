"""The views: typed rows to read, kept in Redis or in memory under the same keys, written by the projection."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from tars.runtime import view_changes as keys
from tars.runtime.view_changes import Changes, Sessions
from tars.schemas.message import Frozen
from tars.schemas.streams import STREAMS
from tars.schemas.views import (
    AgentPoint,
    AgentRow,
    ConflictRow,
    DeadRow,
    EquilibriumRow,
    PipelineRow,
    StatsRow,
    StudyRow,
    TrialRow,
    UpdateRow,
)

Row = TypeVar("Row", bound=Frozen)
TIMEOUT: Final = 2.0
"""Seconds that a read may take before Redis counts as away."""
SILENT_SECONDS: Final = 30
"""Rows of a newer form whose writers were silent for so long may be replaced: the release was taken back."""
NEWER: Final = -1
"""Instead of a position: somebody writes rows of a newer form, and whoever is older leaves Redis to them."""


class Epoch(NamedTuple):
    """Which rows: of a ledger, in a form. Rows of two epochs never lie side by side."""

    created: str
    """When the stream was made."""
    form: int
    """Larger in a newer release whose rows are others."""

    def __str__(self) -> str:
        """As the cursor has it."""
        return f"{self.created}/{self.form}"


class Views(ABC):
    """Typed queries over hashes, lists and sorted sets; rows come newest first."""

    @abstractmethod
    def _hash(self, key: str) -> dict[str, str]:
        """All fields of a hash; empty where there is none."""

    @abstractmethod
    def _list(self, key: str, offset: int, limit: int) -> list[str]:
        """Items of a list, from its head."""

    @abstractmethod
    def _index(self, key: str) -> list[str]:
        """Members of a sorted set, highest score first, then by name."""

    @abstractmethod
    def _size(self, key: str) -> int:
        """How many a list, set or sorted set holds."""

    def agents(self) -> list[AgentRow]:
        """Every agent that the ledger knows, by name."""
        return [row for name in sorted(self._index(keys.AGENTS)) if (row := self.agent(name))]

    def agent(self, agent_id: str) -> AgentRow | None:
        """One agent; None: the ledger does not know it."""
        fields = self._hash(keys.agent_state(agent_id)) or self._hash(keys.agent_ledger(agent_id))
        return _row(AgentRow, {"agent_id": json.dumps(agent_id), **fields}) if fields else None

    def history(self, agent_id: str, offset: int = 0, limit: int = 100) -> list[AgentPoint]:
        """Episodes of an agent."""
        return [
            AgentPoint.model_validate_json(item) for item in self._list(keys.agent_history(agent_id), offset, limit)
        ]

    def pending(self) -> list[UpdateRow]:
        """Updates that wait for approval."""
        return [row for name in self._index(keys.PENDING) if (row := self.update(name))]

    def update(self, update_id: str) -> UpdateRow | None:
        """One update; None: there is none."""
        fields = self._hash(keys.update(update_id))
        return _row(UpdateRow, fields) if fields else None

    def updates(self, offset: int = 0, limit: int = 100) -> list[UpdateRow]:
        """Updates, the newest proposal first."""
        names = self._index(keys.UPDATES)[offset : offset + limit]
        return [row for name in names if (row := self.update(name))]

    def study(self, study_id: str) -> StudyRow | None:
        """One study; None: there is none."""
        fields = self._hash(keys.study(study_id))
        return (
            _row(StudyRow, fields) if "study_id" in fields else None
        )  # its trials may be counted before it is told of

    def studies(self, offset: int = 0, limit: int = 100) -> list[StudyRow]:
        """Studies, the newest first."""
        names = self._index(keys.STUDIES)[offset : offset + limit]
        return [row for name in names if (row := self.study(name))]

    def trials(self, study_id: str, offset: int = 0, limit: int = 1000) -> list[TrialRow]:
        """A study's trials, by number."""
        fields = self._hash(keys.trials(study_id))
        numbers = sorted(int(name) for name in fields if name.isdecimal())[offset : offset + limit]
        return [_trial(fields, str(number)) for number in numbers]

    def conflicts(self, offset: int = 0, limit: int = 100) -> list[ConflictRow]:
        """Conflicts between roles."""
        return [ConflictRow.model_validate_json(item) for item in self._list(keys.CONFLICTS, offset, limit)]

    def equilibria(self, offset: int = 0, limit: int = 100) -> list[EquilibriumRow]:
        """Distances from an equilibrium."""
        return [EquilibriumRow.model_validate_json(item) for item in self._list(keys.EQUILIBRIA, offset, limit)]

    def pipeline(self) -> list[PipelineRow]:
        """What waits before each durable."""
        return [PipelineRow.model_validate_json(row) for _, row in sorted(self._hash(keys.PIPELINE).items())]

    def dead(self, offset: int = 0, limit: int = 100) -> list[DeadRow]:
        """Messages that were put aside."""
        return [DeadRow.model_validate_json(item) for item in self._list(keys.DEAD, offset, limit)]

    def stats(self) -> StatsRow:
        """Counts."""
        counts = {name: int(value) for name, value in self._hash(keys.METRICS).items()}
        agents = self._index(keys.AGENTS)
        lengths = [self._size(keys.agent_history(name)) for name in agents]
        cap = counts.get("history_cap", 0)
        return StatsRow(
            **counts,
            agents=len(agents),
            studies=self._size(keys.STUDIES),
            updates=self._size(keys.UPDATES),
            pending=self._size(keys.PENDING),
            conflicts=self._size(keys.CONFLICTS),
            equilibria=self._size(keys.EQUILIBRIA),
            sessions=self._size(keys.SESSIONS),
            history=sum(lengths),
            utilisation=max(lengths, default=0) / cap if cap else 0.0,
        )


def _row(model: type[Row], fields: Mapping[str, str]) -> Row:
    """Read a row whose fields are JSON each."""
    body = ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items())
    return model.model_validate_json(f"{{{body}}}")


def _trial(fields: Mapping[str, str], number: str) -> TrialRow:
    row = TrialRow.model_validate_json(fields[number])
    told = int(fields.get(f"{number}.episode", "0"))
    return row.model_copy(update={"episode": max(row.episode, told)})


class MemoryViews(Views):
    """Views of this process: what queries are answered from."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._hashes: dict[str, dict[str, str]] = {}
        self._lists: dict[str, list[str]] = {}
        self._indexes: dict[str, dict[str, float]] = {}
        self._seen: dict[str, float] = {}

    def apply(self, changes: Changes) -> None:
        """Take changes in. Keys do not expire here: a process lives less long than they matter."""
        for key, fields in changes.hashes.items():
            if key not in self._hashes:
                self._hashes[key] = dict(self._hashes.get(fields.seed, {}))
            self._hashes[key].update(fields.values)
        for key, pushes in changes.lists.items():
            newest = [item for _, item in reversed(pushes.items)]
            self._lists[key] = (newest + self._lists.get(key, []))[: self._cap]
        for key, members in changes.indexes.items():
            index = self._indexes.setdefault(key, {})
            index.update({member: score for member, score in members.items() if score is not None})
            for member in (member for member, score in members.items() if score is None):
                index.pop(member, None)
        if changes.sessions is not None:
            self._seen.update(changes.sessions.seen)
            self._seen = {k: at for k, at in self._seen.items() if at >= changes.sessions.closed_before}

    def _hash(self, key: str) -> dict[str, str]:
        return dict(self._hashes.get(key, {}))

    def _list(self, key: str, offset: int, limit: int) -> list[str]:
        return self._lists.get(key, [])[offset : offset + limit]

    def _index(self, key: str) -> list[str]:
        return [name for name, _ in sorted(self._indexes.get(key, {}).items(), key=lambda pair: (-pair[1], pair[0]))]

    def _size(self, key: str) -> int:
        if key == keys.SESSIONS:
            return len(self._seen)
        return len(self._lists.get(key) or self._indexes.get(key) or ())


class RedisViews(Views):
    """Views in Redis: what the page reads. Raises redis.RedisError while Redis is away, after TIMEOUT seconds."""

    def __init__(self, url: str) -> None:
        # An explicit pool has no retry of its own, and a client without one blocks for five seconds a call.
        self._redis = redis.Redis(
            connection_pool=redis.ConnectionPool.from_url(
                url,
                decode_responses=True,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 2),
            )
        )

    def age(self) -> float:
        """Seconds since consumers last had all rows of a stream here, of the one that waits longest; inf: never."""
        asked = self._redis.pipeline(transaction=False)
        for stream in STREAMS:
            asked.hget(keys.cursor(stream), "seen")
        asked.time()
        *seen, (now, _) = asked.execute()
        return max((now - int(at) for at in seen if at is not None), default=math.inf)

    def close(self) -> None:
        """Close all connections."""
        self._redis.connection_pool.disconnect()
        self._redis.close()

    def _hash(self, key: str) -> dict[str, str]:
        return cast("dict[str, str]", self._redis.hgetall(key))

    def _list(self, key: str, offset: int, limit: int) -> list[str]:
        return cast("list[str]", self._redis.lrange(key, offset, offset + limit - 1))

    def _index(self, key: str) -> list[str]:
        pairs = cast("Sequence[tuple[str, float]]", self._redis.zrange(key, 0, -1, withscores=True))
        return [name for name, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0]))]

    def _size(self, key: str) -> int:
        sizes: Mapping[str, Any] = {"list": self._redis.llen, "set": self._redis.scard, "zset": self._redis.zcard}
        kind = cast("str", self._redis.type(key))
        return int(sizes[kind](key)) if kind in sizes else 0


# KEYS[1]: the stream's cursor {epoch, sequence, form, seen}. ARGV: epoch, form, sequence expected, sequence after, cap,
# n and n patterns of keys that a rebuild starts afresh, then the operations. One call, all or nothing: rows, cursor.
#   H key expires seed n field value ...   fields of a hash, over a copy of `seed` where there is none yet
#   L key expires n item ...               items to the head of a list, oldest first, at most `cap` in all
#   Z key n score member ...               members of a sorted set; score "" takes one out
#   S set zset expires before n time id .. open pages, and those silent since `before` are taken out
_WRITE: Final = """
local epoch, want, last, cap = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local found = redis.call('HMGET', KEYS[1], 'epoch', 'sequence')
local have = 0
if found[1] == epoch then have = tonumber(found[2]) elseif found[1] then have = -1 end
if have ~= want then return {0, have} end
local i = 6
local patterns = tonumber(ARGV[i])
for p = 1, patterns do
  if have == 0 then
    for _, key in ipairs(redis.call('KEYS', ARGV[i + p])) do redis.call('DEL', key) end
  end
end
i = i + patterns + 1
local function expire(key, at)
  if tonumber(at) > 0 then redis.call('EXPIREAT', key, at, 'GT'); redis.call('EXPIREAT', key, at, 'NX') end
end
while i <= #ARGV do
  local op, key = ARGV[i], ARGV[i + 1]
  if op == 'H' then
    local seed, n = ARGV[i + 3], tonumber(ARGV[i + 4])
    if seed ~= '' and redis.call('EXISTS', key) == 0 then
      local copy = redis.call('HGETALL', seed)
      if #copy > 0 then redis.call('HSET', key, unpack(copy)) end
    end
    if n > 0 then redis.call('HSET', key, unpack(ARGV, i + 5, i + 4 + n)) end
    expire(key, ARGV[i + 2])
    i = i + 5 + n
  elseif op == 'L' then
    local n = tonumber(ARGV[i + 3])
    for k = i + 4, i + 3 + n do redis.call('LPUSH', key, ARGV[k]) end
    redis.call('LTRIM', key, 0, cap - 1)
    expire(key, ARGV[i + 2])
    i = i + 4 + n
  elseif op == 'Z' then
    local n = tonumber(ARGV[i + 2])
    for k = i + 3, i + 2 + n, 2 do
      if ARGV[k] == '' then redis.call('ZREM', key, ARGV[k + 1]) else redis.call('ZADD', key, ARGV[k], ARGV[k + 1]) end
    end
    i = i + 3 + n
  elseif op == 'S' then
    local seen, n = ARGV[i + 2], tonumber(ARGV[i + 5])
    for k = i + 6, i + 5 + n, 2 do
      redis.call('SADD', key, ARGV[k + 1]); redis.call('ZADD', seen, ARGV[k], ARGV[k + 1])
    end
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', '(' .. ARGV[i + 4])) do
      redis.call('SREM', key, gone); redis.call('ZREM', seen, gone)
    end
    expire(key, ARGV[i + 3]); expire(seen, ARGV[i + 3])
    i = i + 6 + n
  else
    return redis.error_reply('unknown operation ' .. op)
  end
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'sequence', last, 'form', ARGV[2], 'seen', redis.call('TIME')[1])
return {1, last}
"""


# KEYS[1]: the stream's cursor. ARGV: epoch, form, seconds. While it is our epoch's, says that we are here. Returns the
# position: 0 where it is another's, -1 where a newer form's is, whose writer said so less than these seconds ago.
_LOOK: Final = """
local found = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'form', 'seen')
local now = tonumber(redis.call('TIME')[1])
if found[1] == ARGV[1] then
  redis.call('HSET', KEYS[1], 'seen', now)
  return tonumber(found[2])
end
if tonumber(found[3] or 0) > tonumber(ARGV[2]) and now - tonumber(found[4] or 0) < tonumber(ARGV[3]) then return -1 end
return 0
"""


# KEYS[1]: the stream's cursor. ARGV: as of _LOOK, then where the stream ends, "1" where it may lose its end, patterns
# of every key of TARS. Rows of another epoch, or of messages that the stream does not have, are removed; it is ours.
_OPEN: Final = """
local found = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'form', 'seen')
local now, have, last = tonumber(redis.call('TIME')[1]), tonumber(found[2] or 0), tonumber(ARGV[4])
if found[1] and found[1] ~= ARGV[1] and tonumber(found[3] or 0) > tonumber(ARGV[2])
  and now - tonumber(found[4] or 0) < tonumber(ARGV[3]) then return -1 end
if found[1] and (found[1] ~= ARGV[1] or have > last and ARGV[5] ~= '1') then
  for p = 6, #ARGV do
    for _, key in ipairs(redis.call('KEYS', ARGV[p])) do redis.call('DEL', key) end
  end
  have = 0
end
have = math.min(have, last)
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'sequence', have, 'form', ARGV[2], 'seen', now)
return have
"""


class RedisWriter:
    """Writes a stream's changes and its position in one step, so that killed or doubled writers change nothing."""

    def __init__(self, url: str, cap: int) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            url, socket_timeout=5, socket_connect_timeout=TIMEOUT, retry=None, decode_responses=True
        )
        self._cap = cap
        self._write = self._redis.register_script(_WRITE)
        self._open = self._redis.register_script(_OPEN)
        self._look = self._redis.register_script(_LOOK)

    async def open(self, stream: str, epoch: Epoch, last: int) -> int:
        """Return up to which sequence of this stream rows are written, 0: none. `last`: where the stream ends.

        Rows of another epoch are removed, of every stream: Redis shows one ledger, and its database is TARS's alone.
        But NEWER, and nothing is done, where a process writes rows of a newer form.
        """
        lossy = "1" if STREAMS[stream].asynchronous else "0"
        arguments: list[str | int | float] = [str(epoch), epoch.form, SILENT_SECONDS, last, lossy, *keys.OWNED]
        return int(await cast("Any", self._open(keys=[keys.cursor(stream)], args=arguments)))

    async def position(self, stream: str, epoch: Epoch) -> int:
        """Return up to which sequence of this stream rows are written; 0: nothing, or of another ledger; NEWER."""
        arguments: list[str | int | float] = [str(epoch), epoch.form, SILENT_SECONDS]
        return int(await cast("Any", self._look(keys=[keys.cursor(stream)], args=arguments)))

    async def write(self, stream: str, epoch: Epoch, span: tuple[int, int], changes: Changes) -> int:
        """Write what came after span[0], up to span[1]; return the position that was found where it was another."""
        fresh = keys.PUSHED.get(stream, ())
        what = operations(changes.after(span[0]))
        arguments: list[str | int | float] = [str(epoch), epoch.form, *span, self._cap, len(fresh), *fresh, *what]
        done, have = await cast("Any", self._write(keys=[keys.cursor(stream)], args=arguments))
        return span[1] if done else int(have)

    async def measured(self, changes: Changes) -> None:
        """Write what no stream tells: fields of hashes, whatever the positions of streams."""
        for key, fields in changes.hashes.items():
            await cast("Any", self._redis.hset(key, mapping=cast("Any", fields.values)))

    async def use(self) -> dict[str, int]:
        """Return how much Redis holds, as fields of StatsRow."""
        memory = await cast("Any", self._redis.info("memory"))
        return {"redis_bytes": int(memory["used_memory"]), "redis_keys": int(await self._redis.dbsize())}

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()


def operations(changes: Changes) -> list[str | int | float]:
    """Changes as the arguments of the script."""
    found: list[str | int | float] = []
    for key, fields in changes.hashes.items():
        pairs = [text for pair in fields.values.items() for text in pair]
        found += ["H", key, fields.expires, fields.seed, len(pairs), *pairs]
    for key, pushes in changes.lists.items():
        found += ["L", key, pushes.expires, len(pushes.items), *(item for _, item in pushes.items)]
    for key, members in changes.indexes.items():
        scored = [x for member, score in members.items() for x in ("" if score is None else score, member)]
        found += ["Z", key, len(scored), *scored]
    if changes.sessions is not None:
        found += _sessions(changes.sessions)
    return found


def _sessions(sessions: Sessions) -> list[str | int | float]:
    seen = [x for name, at in sessions.seen.items() for x in (at, name)]
    return ["S", keys.SESSIONS, keys.SEEN, sessions.expires, sessions.closed_before, len(seen), *seen]
