"""One table for every place: terminals, Markdown, notebooks and pages draw the same cells."""
