"""Leases on Redis: one replica makes a value, and a lease that nobody renews or gives back ends by itself.

A key and its lease share a hash tag, so that they live on one node of a Redis cluster.
"""

from __future__ import annotations

CLAIM = """
local value = redis.call('GETRANGE', KEYS[1], 0, ARGV[1])
if #value > 0 then return value end
if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return 1 end
return 0
"""
"""The value (at most ARGV[1] + 1 bytes), else 1 and the lease for the token ARGV[2] and ARGV[3] ms, else 0."""

RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
"""Let the lease hold for ARGV[2] ms from now if it still is the token's ARGV[1]."""

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
"""Delete the lease if it still is the token's: one that ran out may be another replica's by now."""


def value_key(prefix: str, key: str) -> str:
    """Where the value of `key` is."""
    return f"{prefix}{{{key}}}"


def lease_key(prefix: str, key: str) -> str:
    """Where the lease on `key` is."""
    return f"{prefix}{{{key}}}:lease"
