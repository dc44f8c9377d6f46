"""Tables, plots and pages, drawn from artifacts alone."""
