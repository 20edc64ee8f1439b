"""Everything that talks to or runs a model: clients, encoders, the index, adapters, GGUF."""
