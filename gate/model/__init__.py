"""Values that more than one part of gate works with. No I/O."""
