"""What everything stands on: files, events, processes, the terminal, the machine."""
