"""K-means fits of rows that are only ever read in pieces, from files larger than memory."""
