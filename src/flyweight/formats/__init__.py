"""Write models in other programs' formats; each writer imports its library when it is used."""
