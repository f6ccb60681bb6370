"""Labels that other tools made, as records of a run, and from there into any export format."""
