"""k-means: public functions in `api`, one fit in `fit`, Lloyd's loop in `lloyd`."""
