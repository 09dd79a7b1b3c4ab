"""Values that more than one package of gate uses. Nothing here does I/O."""
