"""Cuts a model down to the units that contribute: the graph of its units, a rule for each kind of layer, the rewriter."""
