"""k-means: validation to result in `fit`, Lloyd's loop in `lloyd`, the public functions in `api`."""
