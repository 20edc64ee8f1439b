"""Pure dataset rules: every function is deterministic and does no I/O."""
