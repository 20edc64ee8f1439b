"""Privacy before the lake: personal data becomes typed placeholders. `mask` for one text, `columns` for a frame."""
