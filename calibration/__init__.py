"""Accuracy on labelled data, operating points and benchmarks. Imports `engines` only."""
