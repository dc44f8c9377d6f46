"""A package of somebody else: two stages, a metric and a linear kind, through public names alone.

Importing it registers them. An installed package would name this module in its `pyproject.toml`:

    [project.entry-points."flyweight.plugins"]
    toy = "flyweight_toy"
"""

from flyweight_toy import linear_scaled, metric, stage, training


def register():
    """Add what this package has; doing it again changes nothing."""
    stage.register()
    training.register()
    metric.register()
    linear_scaled.register()


register()
