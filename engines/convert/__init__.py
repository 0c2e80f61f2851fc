"""<Target>From<Source>: model files from one format to another."""
