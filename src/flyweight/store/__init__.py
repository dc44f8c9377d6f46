"""The runs root: artifacts, locks, which run needs which artifact, and what may be removed."""
