"""`python -m flyweight`: the command line."""

from flyweight.cli import main

if __name__ == "__main__":
    main()
