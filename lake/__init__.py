"""Ground floor: what is on disk, and the pure rules about it. Imports nothing of the other rooms."""
