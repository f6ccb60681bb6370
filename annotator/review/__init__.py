"""A run in the FiftyOne app, and what a person changed there back into the run."""
