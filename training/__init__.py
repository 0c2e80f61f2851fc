"""Training of classifiers: labelled pictures, networks, a loop that survives a kill, folds, and the export to ONNX with its card."""
