"""The same work on a Ray cluster: training, preparing a corpus, serving."""
