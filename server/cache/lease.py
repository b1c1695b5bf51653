"""Leases on Redis: one replica makes a value, and a lease that nobody renews or gives back ends by itself.

A key, its lease and the note that it was forgotten share a hash tag, so that they live on one node of a Redis cluster.
A lease holds its token, behind a mark if it is yielding.
"""

from __future__ import annotations

YIELDING = "~"

CLAIM = f"""
local function yields(owner) return string.sub(owner, 1, 1) == '{YIELDING}' end
local value = redis.call('GETRANGE', KEYS[1], 0, ARGV[1])
if #value > 0 then return value end
local owner = redis.call('GET', KEYS[2])
if owner and (yields(ARGV[2]) or not yields(owner)) then return 0 end
if ARGV[4] == '1' and redis.call('EXISTS', KEYS[3]) == 1 then return -1 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
"""
"""The value (at most ARGV[1] + 1 bytes), else 1 and the lease for the token ARGV[2] and ARGV[3] ms, else 0.

Where the token has the mark, so has the lease. A lease with it is taken from its owner by a token without. -1 in place
of the lease for one who has lost it (ARGV[4] is 1) where there is a note that the value was forgotten.
"""

FORGET = """
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('SET', KEYS[3], '1', 'PX', ARGV[1])
return 1
"""
"""Delete the value and its lease, and note that for ARGV[1] ms."""

_IF_OWNED = f"""
local owner = redis.call('GET', KEYS[1])
if owner ~= ARGV[1] and owner ~= '{YIELDING}' .. ARGV[1] then return 0 end
"""

INSIST = f"""{_IF_OWNED}
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
"""Take the mark from the lease, which holds for ARGV[2] ms from now, if it still is the token's ARGV[1]."""

RENEW = f"""{_IF_OWNED}
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
"""Let the lease hold for ARGV[2] ms from now if it still is the token's ARGV[1]."""

RELEASE = f"""{_IF_OWNED}
return redis.call('DEL', KEYS[1])
"""
"""Delete the lease if it still is the token's: one that ran out may be another replica's by now."""


def value_key(prefix: str, key: str) -> str:
    """Where the value of `key` is."""
    return f"{prefix}{{{key}}}"


def lease_key(prefix: str, key: str) -> str:
    """Where the lease on `key` is."""
    return f"{prefix}{{{key}}}:lease"


def forgotten_key(prefix: str, key: str) -> str:
    """Where it is noted that the value of `key` was forgotten."""
    return f"{prefix}{{{key}}}:forgotten"
