"""A package of somebody else: one stage and one metric, added through flyweight's public names alone.

Importing it registers them. An installed package would name this module in its `pyproject.toml`:

    [project.entry-points."flyweight.plugins"]
    toy = "flyweight_toy"
"""

from flyweight_toy import metric, stage


def register():
    """Add what this package has; doing it again changes nothing."""
    stage.register()
    metric.register()


register()
