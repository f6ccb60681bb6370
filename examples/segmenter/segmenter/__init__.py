"""A small segmenter that learns from annotate's masks (`segmenter.train`) and labels as one of its methods."""
