"""A package of somebody else, which adds to flyweight through its public names alone."""
