"""Models in other programs' formats. Importing this costs nothing.

Each writer imports its own library.
"""
