"""What everything stands on: artifacts, events, budgets, the machine."""
