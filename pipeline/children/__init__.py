"""Child processes that can be killed: one that answers calls, a pool with a deadline an item, a team that trains."""
