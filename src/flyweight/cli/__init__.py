"""The command line."""

from flyweight.cli.app import main as main
