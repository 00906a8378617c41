"""Looking inside a decode: `trace` writes down what happened, `check` finds what is wrong with a pair of models."""
