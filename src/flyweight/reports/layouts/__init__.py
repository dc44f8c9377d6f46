"""Tables and figures of papers, filled from a run: see `content` for their shape."""
