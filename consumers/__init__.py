"""Projections of the ledger into Redis and memory, and the queries they answer."""
