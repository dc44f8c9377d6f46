"""Models in other programs' formats. Importing this costs nothing; each writer imports its own library."""
