"""Which rollouts an update trains on."""
