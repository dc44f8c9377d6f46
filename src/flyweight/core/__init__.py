"""What every other room needs: files, events, processes, the terminal, the machine."""
