"""Tables of models, for pages, terminals and files."""
