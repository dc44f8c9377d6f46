"""A package of somebody else: a stage, a metric and a linear kind, through public names alone.

Importing it registers them. An installed package would name this module in its `pyproject.toml`:

    [project.entry-points."flyweight.plugins"]
    toy = "flyweight_toy"
"""

from flyweight_toy import linear_scaled, metric, stage


def register():
    """Add what this package has; doing it again changes nothing."""
    stage.register()
    metric.register()
    linear_scaled.register()


register()
