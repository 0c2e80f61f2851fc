"""Raw tensors to results: one file a model family, free of backends."""
