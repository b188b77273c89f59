"""What was decided and what came of it, read back from the two streams."""
